// SPDX-License-Identifier: Apache-2.0
// Holds a tokenizer.json against text/strings.json (ids of libsentencepiece) with Hugging Face's own tokenizers:
//   npm install tokenizers; build/tests/tokenizer_form json tests/golden/text/tiny.model /tmp/tokenizer.json
//   NODE_PATH=node_modules node tests/golden/check_tokenizer_json.js /tmp/tokenizer.json tests/golden/text/strings.json
const fs = require('fs');
const { Tokenizer } = require('tokenizers');

async function main() {
  const tokenizer = Tokenizer.fromFile(process.argv[2]);
  const rows = JSON.parse(fs.readFileSync(process.argv[3], 'utf8')).full;
  let same = 0, marked = 0;
  const other = [];
  for (const [, cleaned, want] of rows) {
    // Special tokens written out in a text are tokens for these tokenizers, and text for libsentencepiece.
    if (/<(pad|s|\/s|unk|extra_id_0)>/.test(cleaned)) {
      marked++;
      continue;
    }
    const got = (await tokenizer.encode(cleaned, null, { addSpecialTokens: false })).getIds();
    if (JSON.stringify(got.concat([1])) === JSON.stringify(want)) same++;
    else other.push([cleaned, got, want]);
  }
  console.log(`${same} of ${rows.length} texts have the same ids, ${other.length} others, ${marked} hold special tokens`);
  for (const row of other.slice(0, 10)) console.log(JSON.stringify(row));
  process.exitCode = other.length ? 1 : 0;
}
main();
