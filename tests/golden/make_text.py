#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the fixtures of test_text.c: tests/golden/text/{tiny.model, strings.json}, and the fuzzer's seeds.

usage: tests/golden/make_text.py [SEED]        (needs spm_train and the sentencepiece module; ftfy is optional)

tiny.model is a unigram model in umT5's layout, trained here on sentences made here. strings.json holds
[[text, cleaned, ids]...] and, for cleaning without ftfy, [[text, cleaned]...]. The cleaning is restated below
with Python's own html, re and unicodedata; where ftfy is installed, it must agree (mojibake repair off).
"""
import html
import html.entities
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import unicodedata

import sentencepiece

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "text")
SPACES = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

# ---- cleaning, restated ------------------------------------------------------------------------------

ENTITIES = {k: v for k, v in html.entities.html5.items() if k.endswith(";")}
for key, value in list(ENTITIES.items()):
    if key.islower() and html.unescape("&" + key.upper()) == "&" + key.upper():
        ENTITIES.setdefault(key.upper(), value.upper())
PAIRS = {"\u0132": "IJ", "\u0133": "ij", "\u0149": "\u02bcn", "\ufb05": "\u017ft"}
for code in [*range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4), *range(0xFB00, 0xFB05), 0xFB06]:
    PAIRS[chr(code)] = unicodedata.normalize("NFKC", chr(code))


def reference(match):
    body = match[0][1:]
    if body[0] != "#":
        return ENTITIES.get(body, match[0])
    text = html.unescape(match[0])
    return match[0] if ";" in text else text


def fix_line(line, references):
    while True:
        before = line
        if references:
            line = re.sub("&#?[0-9A-Za-z]{1,24};", reference, line)
        line = re.sub("[\x80-\x9f]", lambda m: bytes([ord(m[0])]).decode("cp1252", "ignore") or m[0], line)
        line = "".join(PAIRS.get(c, c) for c in line)
        line = line.replace("\u3000", " ")
        line = re.sub("[\uff01-\uffef]", lambda m: unicodedata.normalize("NFKC", m[0]), line)
        line = re.sub("[\u201c-\u201f]", '"', line)
        line = re.sub("[\u02bc\u2018-\u201b]", "'", line)
        line = re.sub("\r\n|[\r\u2028\u2029]", "\n", line)
        line = re.sub("\x1b\\[[\\d;]*[A-Za-z]", "", line)
        line = re.sub("[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]", "", line)
        line = unicodedata.normalize("NFC", line)
        if line == before:
            return line


def fix_text(text):
    out, references = [], True
    for line in re.findall("[^\n]*\n|[^\n]+", text):
        references = references and "<" not in line
        out.append(fix_line(line, references))
    return "".join(out)


def tidy(text):
    text = html.unescape(html.unescape(text)).strip()
    return re.sub(f"[{SPACES}]+", " ", text).strip()


# ---- text --------------------------------------------------------------------------------------------

SENTENCES = """
A red kite turns slowly over the harbour while the fishing boats come home in the evening light.
The camera follows a small robot through a quiet library; dust floats in the warm sunlight.
Two children run along the beach, laughing, and a white dog jumps into the waves behind them.
Close-up of rain on a window at night, neon signs reflected in every drop, 35mm film, shallow depth of field.
An old clockmaker lifts a tiny golden gear with tweezers, 4K, highly detailed, slow motion.
Eine alte Dampflokomotive fährt über eine Brücke, während der Nebel aus dem Tal aufsteigt.
Ein Mädchen mit grünem Hut füttert Enten am See; große Bäume spiegeln sich im Wasser.
Un chat noir traverse la ruelle pavée, l'été, sous les fenêtres ouvertes et le ciel très bleu.
La mer est calme, une barque dérive près de la côte où l'on aperçoit des maisons blanches.
El niño corre por la montaña al amanecer y la niebla cubre el valle; ¿quién lo espera?
Dois pássaros pousam no telhado da igreja enquanto o coração da cidade acorda devagar.
Żółta łódź płynie po spokojnej rzece, a dzieci machają z mostu.
Güneş batarken şehrin üzerinde kuşlar uçuyor, ışık suyun üstünde parlıyor.
Красный поезд идёт через заснеженный лес, дым медленно поднимается над деревьями.
Маленькая девочка рисует солнце на окне, а за окном идёт дождь.
Жовтий соняшник повертається за сонцем, їжак ховається у траві.
Η θάλασσα είναι ήρεμη και το μικρό καράβι πλησιάζει το λιμάνι του νησιού.
一只橘色的猫坐在窗台上，看着雨中的街道，镜头缓缓推进。
城市的夜景，霓虹灯在湿润的路面上闪烁，行人撑着伞走过。
色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量
雪の降る駅で、赤いマフラーの少女が電車を待っている。カメラはゆっくりと近づく。
夕焼けの海辺をサーフィンする人たち、波がきらきらと光っている。
눈 덮인 산 위로 해가 떠오르고 작은 새가 나뭇가지에 앉아 노래한다.
고양이가 창가에서 비 오는 거리를 바라보고 있다.
قارب صغير يبحر في البحر الهادئ عند غروب الشمس والطيور تحلق فوقه.
ילדה קטנה רצה בשדה ירוק בזמן שהרוח נושבת בעדינות.
एक छोटा लड़का नदी के किनारे पतंग उड़ा रहा है और सूरज डूब रहा है।
เรือลำเล็กลอยอยู่กลางทะเลสาบยามเช้า หมอกบางๆ ปกคลุมภูเขา
Một cô gái mặc áo dài trắng đi xe đạp trên con đường làng buổi sáng.
ஒரு சிறிய பறவை மரத்தின் மேல் அமர்ந்து பாடுகிறது.
""".strip().split("\n")


def train(seed):
    rng = random.Random(seed)
    lines = []
    for sentence in SENTENCES:
        words = sentence.split(" ")
        for _ in range(40):
            if len(words) > 2:
                rng.shuffle(words)
                lines.append(" ".join(words[: rng.randint(2, len(words))]))
            else:
                a = rng.randint(0, len(sentence) - 4)
                lines.append(sentence[a : a + rng.randint(3, 20)])
    with tempfile.TemporaryDirectory() as tmp:
        with open(os.path.join(tmp, "corpus.txt"), "w", encoding="utf-8") as f:
            f.write("\n".join(lines) + "\n")
        subprocess.run(
            ["spm_train", "--input=corpus.txt", "--model_prefix=tiny", "--model_type=unigram",
             "--byte_fallback", "--pad_id=0", "--eos_id=1", "--bos_id=2", "--unk_id=3",
             "--normalization_rule_name=nmt_nfkc", "--vocab_size=1600", "--hard_vocab_limit=false", "--character_coverage=0.998",
             "--num_threads=1", "--minloglevel=2"], check=True, cwd=tmp, stderr=subprocess.DEVNULL)
        with open(os.path.join(tmp, "tiny.model"), "rb") as f:
            return f.read()


def strings(seed):
    rng = random.Random(seed + 1)
    names = sorted(html.entities.html5)
    pick = rng.choice

    def entity():
        kind = rng.randrange(8)
        name = pick(names).rstrip(";")
        if kind < 3:
            return f"&{name};"
        if kind == 3:
            return f"&{name}" + pick(["", "x", "1", " ", "ly;", "é"])
        if kind == 4:
            value = pick([rng.randrange(0x250), rng.randrange(0x120000), 0, 13, 59, 128, 0xD800, 10**12])
            return f"&#{value}" + pick([";", "", "a"])
        if kind == 5:
            value = pick([rng.randrange(0xA0), rng.randrange(0x3000), 0xFFFE, 0xFDD0, 0x1FFFFF])
            return f"&#{pick('xX')}{value:{pick('xX')}}" + pick([";", "", "g;"])
        if kind == 6:
            return f"&{name.upper()};"
        return pick(["&amp;amp;lt;", "&amp;amp;amp;amp;quot;", "&", "&&amp;", "&;", "&#;", "&#x;", "&ampamp;", "&notit;",
                     "&notin;", "&amp;#39;", "&ldquo;deep&rdquo;", "&lsquo;", "&nbsp;", "&NewLine;", "&Tab;", "&AMP",
                     "&#x27", "&amp;#x26;amp;", "&CounterClockwiseContourIntegral;", "&" + "a" * 40 + ";", "&#00065;"])

    extras = ["\u02bc", "\u201cquoted\u201d", "\u2018it\u2019s\u2019", "\u201ax\u201b", "\u201e\u201f", "ﬁne ﬂow oﬃce baﬄe ﬀ ﬅ ﬆ", "Ĳssel ĳs ŉ", "Ǆ ǅ ǆ Ǉ ǈ ǉ Ǌ ǋ ǌ Ǳ ǲ ǳ",
              "\x1b[31mred\x1b[0m", "\x1b[1;44m", "\x1b[", "\x1b[٣m", "a\x00b".replace("\x00", "\x01"), "\x07", "\x0b", "\x0c", "\x1c", "\x1f", "\x7f",
              "\x80", "\x85", "\x91x\x92", "\x93\x9d", "\r\n", "\r", "\n", "\u2028", "\u2029", "\t", "\xa0", "\u1680", "\u2003", "\u202f", "\u205f",
              "\u3000", "\u200b", "\u200c", "\u200d", "\u200e", "\u202a", "\u2060", "\u206a", "\ufeff", "\ufff9", "\ufffc", "\ufffd", "\xad",
              "ＦＵＬＬ　ｗｉｄｔｈ！？", "，。：；", "（１２３）", "ｶﾞｷﾞｸﾞ ﾊﾟﾋﾟ ｱｲｳ", "ﾡﾢ ￂￃ", "￠￡￢￣￤￥￦", "e\u0301 o\u0308 n\u0303 A\u030a", "q\u0323\u0307 s\u0307\u0323",
              "\u1112\u1161\u11ab\u1100\u1173\u11af", "\u0958 \u09dc", "\u212b \u2126 \u1e9b\u0323", "\ufb2c \ufb1d", "🎬🎥", "👩‍🚀 👨‍👩‍👧", "👍🏽 🇯🇵", "🏴\U000e0067\U000e0062\U000e007f",
              "①② ⅷ ½ ㎏ ㍿ ﷺ", "x² H₂O ™ № …", "<b>bold</b>", "a < b", "𝔘𝔫𝔦 𝕏 𝟙𝟚", "ꙮ ᚠᚢᚦ ⲁⲃ 𐍈 𒀀", "\ue000", "\ufdd0", "\U0010ffff", "ＡＢ＆ａｍｐ；", "▁under▁", "  two  spaces  ", "ſ ẞ ß İ ı"]
    out = ["", " ", "\n", "\u3000", "&nbsp;", "\u200b", "▁", "</s>", "<pad> <unk> <0x41> <extra_id_0>"]
    out += SENTENCES
    out += [unicodedata.normalize("NFD", s) for s in SENTENCES]
    for i in range(0, len(names), 9):
        out.append(" ".join("&" + n for n in names[i : i + 9]))
    for e in extras:
        out += [e, "a" + e + "b", e + e]
    while len(out) < 2040:
        words = pick(SENTENCES).split(" ")
        if len(words) < 3:
            words = [words[0][:9], words[0][9:14]]
        a = rng.randrange(len(words))
        words = words[a : a + rng.randint(1, 3)]
        for _ in range(rng.randint(1, 2)):
            item = entity() if rng.random() < 0.45 else pick(extras)
            if rng.random() < 0.1:
                item = "".join(chr(rng.randrange(1, 0x3100)) for _ in range(4))
            elif rng.random() < 0.05:
                item = chr(rng.randrange(0x3100, 0xD800)) + chr(rng.randrange(0xE000, 0x20000))
            words.insert(rng.randint(0, len(words)), item)
        out.append(pick(["", " "]).join(words) if rng.random() < 0.3 else " ".join(words))
    return out


def seeds():
    """Two small models to start the fuzzer from, the second with a charsmap (A to a) and byte fallback."""

    def chunk(number, data):
        return bytes([number << 3 | 2]) + (bytes([len(data)]) if len(data) < 128 else
                                           bytes([len(data) & 127 | 128, len(data) >> 7])) + data

    def piece(text, score, kind):
        return chunk(1, chunk(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([3 << 3, kind]))

    plain = piece("<pad>", 0, 3) + piece("</s>", 0, 3) + piece("<unk>", 0, 2)
    plain += b"".join(piece(t, -len(t), 1) for t in ["\u2581", "a", "b", "ab", "\u2581a", "\u2581red"])
    plain += piece("kite", 0, 4) + piece("aab", -1, 5)
    units = [1 << 31] * 512
    units[0] = 256 << 10
    units[256 ^ 65] = 65 | 1 << 8 | (256 ^ 65 ^ 1) << 10
    units[1] = 1 << 31 | 2
    charsmap = struct.pack("<513I", 2048, *units) + b"z\0a\0"
    mapped = plain + b"".join(piece(f"<0x{b:02X}>", 0, 6) for b in range(256))
    mapped += chunk(2, b"\x18\x01\x98\x02\x01") + chunk(3, chunk(2, charsmap))
    return {"plain": plain, "charsmap": mapped}


def main():
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    texts = strings(seed)
    try:
        import ftfy
        config = ftfy.TextFixerConfig(fix_encoding=False)
        for text in texts:
            assert ftfy.fix_text(text, config) == fix_text(text), ascii(text)
        mojibake = sum(ftfy.fix_text(text) != fix_text(text) for text in texts)
        print(f"ftfy {ftfy.__version__} agrees on {len(texts)} texts; its mojibake repair would change {mojibake}")
    except ImportError:
        print("ftfy is not installed: its rules are only restated")
    model = train(seed)
    sp = sentencepiece.SentencePieceProcessor(model_proto=model)
    full = [[t, tidy(fix_text(t))] for t in texts]
    full = [[t, c, sp.encode(c) + [1]] for t, c in full]
    plain = [[t, tidy(t)] for t in texts[::5]]
    os.makedirs(HERE, exist_ok=True)
    with open(os.path.join(HERE, "tiny.model"), "wb") as f:
        f.write(model)
    with open(os.path.join(HERE, "strings.json"), "w", encoding="utf-8") as f:
        rows = [json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in full]
        f.write('{"full":[\n' + ",\n".join(rows) + '\n],"no_ftfy":[\n')
        rows = [json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in plain]
        f.write(",\n".join(rows) + "\n]}\n")
    folder = os.path.join(HERE, "../../fuzz/seeds/fuzz_tokenizer")
    os.makedirs(folder, exist_ok=True)
    for name, data in seeds().items():
        sentencepiece.SentencePieceProcessor(model_proto=data).encode("a red kite")
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)
    print(f"{len(full)} strings, {sum(len(r[2]) for r in full)} ids, {sp.get_piece_size()} pieces")


if __name__ == "__main__":
    main()
