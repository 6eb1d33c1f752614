/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_form json SPIECE_MODEL OUT: the model as a tokenizer.json, for tests of tokenizers in other forms. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "../tokenizer_forms.h"

int main(int argc, char **argv)
{
    t3v_map map;
    t3v_spiece_model m;
    if (argc != 4 || strcmp(argv[1], "json") != 0) {
        fprintf(stderr, "usage: tokenizer_form json SPIECE_MODEL OUT\n");
        return 2;
    }
    if (t3v_map_open(&map, argv[2]) || t3v_spiece_model_parse(map.data, map.size, &m)) {
        fprintf(stderr, "tokenizer_form: %s\n", t3v_error_text());
        return 1;
    }
    json_t *root = tokenizer_json_of(&m);
    char *text = root ? json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    int rc = 0;
    if (!text || t3v_write_text(argv[3], text, strlen(text))) {
        fprintf(stderr, "tokenizer_form: %s\n", text ? t3v_error_text() : "no JSON");
        rc = 1;
    }
    free(text);
    json_decref(root);
    t3v_spiece_model_free(&m);
    t3v_map_close(&map);
    return rc;
}
