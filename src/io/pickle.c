/* SPDX-License-Identifier: Apache-2.0 */
/* A pickle of tensors, interpreted without running anything: a stack machine over plain values. */
#include "io/pickle.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/log.h"
#include "io/view.h"

/* Every opcode makes at most one value, so memory is bounded by the length of the pickle. */
enum { PICKLE_CAP = 32 << 20, VALUE_CAP = 1 << 20, MARK_CAP = 1000, STRING_CAP = 1 << 16, WRAP_DEPTH = 4 };

typedef enum kind {
    K_NONE,
    K_BOOL,
    K_INT,
    K_REAL,
    K_STRING,
    K_TUPLE,
    K_LIST,
    K_DICT,
    K_GLOBAL,
    K_STORAGE,
    K_TENSOR
} kind;

static const char *const kind_names[] = {"None",     "a boolean", "an integer", "a number",
                                         "a string", "a tuple",   "a list",     "a dict",
                                         "a global", "a storage", "a tensor"};

typedef struct value {
    uint8_t kind;
    uint32_t length; /* of a string */
    union {
        int64_t i;     /* bool, int; index of a global, object, storage or tensor */
        const char *s; /* in the pickle, not terminated */
    };
} value;

/* Tuple and list: items; dict: key, value, key, value. */
typedef struct object {
    value *items;
    uint32_t count, capacity;
} object;

typedef struct storage {
    t3v_dtype dtype;
    value key;
    int64_t numel;
} storage;

typedef struct built {
    t3v_pickle_tensor tensor;
    value key; /* of its storage */
} built;

#define GROWING(type, name) \
    type *name;             \
    uint32_t name##_count, name##_capacity

typedef struct machine {
    const char *label;
    const unsigned char *buf;
    size_t len, at;
    uint32_t marks[MARK_CAP];
    int mark_count;
    GROWING(value, stack);
    GROWING(value, memo);
    GROWING(object, objects);
    GROWING(storage, storages);
    GROWING(built, tensors);
} machine;

struct t3v_pickle {
    t3v_pickle_tensor *tensors;
    int64_t count;
    char *strings;
};

static const struct {
    const char *module, *name;
    enum { G_DICT, G_TENSOR, G_PARAMETER, G_STORAGE } role;
    t3v_dtype dtype;
} globals[] = {
    {"collections", "OrderedDict", G_DICT, T3V_F32},
    {"torch._utils", "_rebuild_tensor_v2", G_TENSOR, T3V_F32},
    {"torch._utils", "_rebuild_parameter", G_PARAMETER, T3V_F32},
    {"torch", "FloatStorage", G_STORAGE, T3V_F32},
    {"torch", "HalfStorage", G_STORAGE, T3V_F16},
    {"torch", "BFloat16Storage", G_STORAGE, T3V_BF16},
    {"torch", "DoubleStorage", G_STORAGE, T3V_F64},
    {"torch", "IntStorage", G_STORAGE, T3V_I32},
    {"torch", "LongStorage", G_STORAGE, T3V_I64},
    {"torch", "ShortStorage", G_STORAGE, T3V_I16},
    {"torch", "CharStorage", G_STORAGE, T3V_I8},
    {"torch", "ByteStorage", G_STORAGE, T3V_U8},
    {"torch", "BoolStorage", G_STORAGE, T3V_BOOL},
};

/* ---- memory ---------------------------------------------------------------------------------- */

static t3v_status grow(machine *m, void **items, uint32_t count, uint32_t *capacity, size_t size)
{
    if (count < *capacity) return T3V_OK;
    if (count >= VALUE_CAP)
        return t3v_fail(T3V_E_TOO_BIG, "%s: the pickle holds more than %d values", m->label, VALUE_CAP);
    uint32_t more = *capacity ? 2 * *capacity : 8;
    void *p = realloc(*items, more * size);
    if (!p) return t3v_fail(T3V_E_NOMEM, "%s: no memory for the pickle", m->label);
    *items = p;
    *capacity = more;
    return T3V_OK;
}

#define GROW(m, owner, name)                                                                   \
    T3V_TRY(grow(m, (void **)&(owner)->name, (owner)->name##_count, &(owner)->name##_capacity, \
                 sizeof *(owner)->name))

static t3v_status bad(const machine *m, const char *what)
{
    return t3v_fail(T3V_E_FORMAT, "%s: bad pickle near byte %zu: %s", m->label, m->at, what);
}

static t3v_status push(machine *m, value v)
{
    GROW(m, m, stack);
    m->stack[m->stack_count++] = v;
    return T3V_OK;
}

/* Values above the last mark cannot be popped by accident. */
static uint32_t floor_of(const machine *m) { return m->mark_count ? m->marks[m->mark_count - 1] : 0; }

static bool pop(machine *m, value *v)
{
    if (m->stack_count <= floor_of(m)) return false;
    *v = m->stack[--m->stack_count];
    return true;
}

static t3v_status new_object(machine *m, kind k, value *out)
{
    GROW(m, m, objects);
    m->objects[m->objects_count] = (object){0};
    *out = (value){.kind = (uint8_t)k, .i = m->objects_count++};
    return T3V_OK;
}

static t3v_status append(machine *m, value to, const value *items, uint32_t n)
{
    object *o = &m->objects[to.i];
    for (uint32_t i = 0; i < n; i++) {
        T3V_TRY(grow(m, (void **)&o->items, o->count, &o->capacity, sizeof *o->items));
        o->items[o->count++] = items[i];
    }
    return T3V_OK;
}

/* ---- tensors --------------------------------------------------------------------------------- */

static bool is_string(value v, const char *text)
{
    return v.kind == K_STRING && v.length == strlen(text) && memcmp(v.s, text, v.length) == 0;
}

static t3v_status persistent_storage(machine *m, value id)
{
    if (id.kind != K_TUPLE || m->objects[id.i].count != 5)
        return bad(m, "a persistent id is not a tuple of five");
    const value *v = m->objects[id.i].items;
    if (!is_string(v[0], "storage") || v[1].kind != K_GLOBAL || globals[v[1].i].role != G_STORAGE ||
        v[2].kind != K_STRING || v[3].kind != K_STRING || v[4].kind != K_INT)
        return bad(m, "a persistent id is not (\"storage\", type, key, location, number of elements)");
    if (v[2].length < 1 || v[2].length > 20) return bad(m, "a storage key is not a number");
    for (uint32_t i = 0; i < v[2].length; i++)
        if (v[2].s[i] < '0' || v[2].s[i] > '9') return bad(m, "a storage key is not a number");
    if (v[4].i < 0) return bad(m, "a storage has a negative size");
    GROW(m, m, storages);
    m->storages[m->storages_count] = (storage){globals[v[1].i].dtype, v[2], v[4].i};
    return push(m, (value){.kind = K_STORAGE, .i = m->storages_count++});
}

/* args: storage, offset, size, stride, requires_grad, hooks[, metadata] */
static t3v_status rebuild_tensor(machine *m, const object *args)
{
    const value *v = args->items;
    if (args->count < 6 || args->count > 7 || v[0].kind != K_STORAGE || v[1].kind != K_INT ||
        v[2].kind != K_TUPLE || v[3].kind != K_TUPLE)
        return bad(m, "_rebuild_tensor_v2 needs (storage, offset, size, stride, requires_grad, hooks)");
    const storage *s = &m->storages[v[0].i];
    const object *size = &m->objects[v[2].i], *stride = &m->objects[v[3].i];
    t3v_pickle_tensor t = {.storage_numel = s->numel, .offset = v[1].i, .entry = {.dtype = s->dtype}};
    if (size->count > T3V_FILE_DIMS || stride->count != size->count)
        return bad(m, "a tensor has more than 8 axes, or not as many strides as sizes");
    t.entry.ndim = (int)size->count;
    for (int i = 0; i < t.entry.ndim; i++) {
        if (size->items[i].kind != K_INT || stride->items[i].kind != K_INT || size->items[i].i < 0 ||
            stride->items[i].i < 0)
            return bad(m, "a size or stride is not a non-negative integer");
        t.entry.shape[i] = size->items[i].i;
        t.stride[i] = stride->items[i].i;
    }
    if (!t3v_entry_sizes(&t.entry)) return bad(m, "a tensor's size overflows");
    if (t.offset < 0) return bad(m, "a tensor's offset is negative");
    int64_t last = t.offset, step, dense = 1;
    t.contiguous = true;
    for (int i = t.entry.ndim - 1; i >= 0; i--) {
        if (t.entry.numel == 0) break;
        if (!t3v_mul(t.entry.shape[i] - 1, t.stride[i], &step) || !t3v_add(last, step, &last))
            return bad(m, "a tensor's strides overflow");
        t.contiguous = t.contiguous && (t.entry.shape[i] == 1 || t.stride[i] == dense);
        dense *= t.entry.shape[i]; /* entry_sizes checked the product */
    }
    if (t.entry.numel == 0 ? t.offset > s->numel : last >= s->numel)
        return t3v_fail(T3V_E_FORMAT, "%s: a tensor reaches element %lld of storage %.*s, which has %lld",
                        m->label, (long long)last, (int)s->key.length, s->key.s, (long long)s->numel);
    if (t.entry.numel > s->numel) return bad(m, "an expanded tensor (stride 0) is larger than its storage");
    GROW(m, m, tensors);
    m->tensors[m->tensors_count] = (built){t, s->key};
    return push(m, (value){.kind = K_TENSOR, .i = m->tensors_count++});
}

static t3v_status reduce(machine *m)
{
    value args, callable, made;
    if (!pop(m, &args) || !pop(m, &callable) || callable.kind != K_GLOBAL || args.kind != K_TUPLE)
        return bad(m, "REDUCE needs a known global and a tuple");
    const object *a = &m->objects[args.i];
    switch (globals[callable.i].role) {
    case G_DICT:
        if (a->count != 0) return bad(m, "OrderedDict with arguments");
        T3V_TRY(new_object(m, K_DICT, &made));
        return push(m, made);
    case G_TENSOR: return rebuild_tensor(m, a);
    case G_PARAMETER:
        if (a->count != 3 || a->items[0].kind != K_TENSOR)
            return bad(m, "_rebuild_parameter needs (tensor, flag, hooks)");
        return push(m, a->items[0]);
    default: return bad(m, "a storage type is called");
    }
}

/* ---- the machine ----------------------------------------------------------------------------- */

static void printable(char *out, size_t size, const char *s, size_t n)
{
    size_t i = 0;
    for (; i < n && i + 1 < size; i++) out[i] = s[i] >= 32 && s[i] < 127 ? s[i] : '?';
    out[i] = 0;
}

static t3v_status push_global(machine *m, const char *module, size_t module_n, const char *name,
                              size_t name_n)
{
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
        if (strlen(globals[i].module) == module_n && memcmp(globals[i].module, module, module_n) == 0 &&
            strlen(globals[i].name) == name_n && memcmp(globals[i].name, name, name_n) == 0)
            return push(m, (value){.kind = K_GLOBAL, .i = (int64_t)i});
    char a[128], b[128];
    printable(a, sizeof a, module, module_n);
    printable(b, sizeof b, name, name_n);
    return t3v_fail(
        T3V_E_UNSUPPORTED,
        "%s: the pickle asks for '%s.%s', which is none of the names a file of weights needs; not loaded. If "
        "you trust the file, save its state dict again with torch.save or as safetensors",
        m->label, a, b);
}

static bool take(machine *m, size_t n, const unsigned char **p)
{
    if (n > m->len - m->at) return false;
    *p = m->buf + m->at;
    m->at += n;
    return true;
}

/* Little-endian, n <= 8 bytes. */
static bool number(machine *m, size_t n, uint64_t *v)
{
    const unsigned char *p;
    if (!take(m, n, &p)) return false;
    *v = 0;
    for (size_t i = n; i-- > 0;) *v = *v << 8 | p[i];
    return true;
}

static bool line(machine *m, const char **s, size_t *n)
{
    const unsigned char *p = m->buf + m->at, *end = memchr(p, '\n', m->len - m->at);
    if (!end) return false;
    *s = (const char *)p;
    *n = (size_t)(end - p);
    m->at += *n + 1;
    return true;
}

static t3v_status push_string(machine *m, uint64_t n)
{
    const unsigned char *p;
    if (n > STRING_CAP) return bad(m, "a string is longer than 65,536 bytes");
    if (!take(m, (size_t)n, &p)) return bad(m, "truncated string");
    if (memchr(p, 0, (size_t)n)) return bad(m, "a string contains a zero byte");
    return push(m, (value){.kind = K_STRING, .length = (uint32_t)n, .s = (const char *)p});
}

/* Everything above the last mark becomes *first .. stack end; the mark is removed. */
static bool since_mark(machine *m, uint32_t *first)
{
    if (!m->mark_count) return false;
    *first = m->marks[--m->mark_count];
    return true;
}

static t3v_status make_tuple(machine *m, uint32_t first)
{
    value t;
    T3V_TRY(new_object(m, K_TUPLE, &t));
    if (m->stack_count > first) T3V_TRY(append(m, t, m->stack + first, m->stack_count - first));
    m->stack_count = first;
    return push(m, t);
}

/* Puts stack[first..] into the list or dict below. */
static t3v_status fill(machine *m, uint32_t first, kind k)
{
    uint32_t n = m->stack_count - first;
    if (first <= floor_of(m) || m->stack[first - 1].kind != k || (k == K_DICT && n % 2))
        return bad(m, k == K_DICT ? "items for something that is not a dict"
                                  : "items for something that is not a list");
    T3V_TRY(append(m, m->stack[first - 1], m->stack + first, n));
    m->stack_count = first;
    return T3V_OK;
}

static t3v_status put(machine *m, uint64_t at)
{
    if (m->stack_count <= floor_of(m)) return bad(m, "nothing to memoize");
    if (at > m->memo_count) return bad(m, "a memo number is skipped");
    if (at == m->memo_count) {
        GROW(m, m, memo);
        m->memo_count++;
    }
    m->memo[at] = m->stack[m->stack_count - 1];
    return T3V_OK;
}

static t3v_status memo_get(machine *m, uint64_t at)
{
    if (at >= m->memo_count) return bad(m, "a memo number is unknown");
    return push(m, m->memo[at]);
}

/* One opcode; *stop on the last. */
static t3v_status step(machine *m, bool *stop)
{
    uint64_t n = 0;
    uint32_t first;
    value a, b;
    const unsigned char *p;
    const char *s1, *s2;
    size_t n1, n2;
    int op = m->buf[m->at++];
    switch (op) {
    case 0x80: /* PROTO */
        if (!number(m, 1, &n) || n < 2 || n > 5) return bad(m, "unknown protocol");
        return T3V_OK;
    case 0x95: /* FRAME */
        if (!number(m, 8, &n) || n > m->len - m->at) return bad(m, "a frame leaves the pickle");
        return T3V_OK;
    case '}': T3V_TRY(new_object(m, K_DICT, &a)); return push(m, a);
    case ']': T3V_TRY(new_object(m, K_LIST, &a)); return push(m, a);
    case ')': T3V_TRY(new_object(m, K_TUPLE, &a)); return push(m, a);
    case '(': /* MARK */
        if (m->mark_count == MARK_CAP) return bad(m, "nested too deeply");
        m->marks[m->mark_count++] = m->stack_count;
        return T3V_OK;
    case 't': /* TUPLE */
        if (!since_mark(m, &first)) return bad(m, "a tuple without a mark");
        return make_tuple(m, first);
    case 0x85:
    case 0x86:
    case 0x87: /* TUPLE1..3 */
        first = (uint32_t)(op - 0x84);
        if (m->stack_count - floor_of(m) < first) return bad(m, "too few values for a tuple");
        return make_tuple(m, m->stack_count - first);
    case 'X': return number(m, 4, &n) ? push_string(m, n) : bad(m, "truncated string");
    case 0x8c: return number(m, 1, &n) ? push_string(m, n) : bad(m, "truncated string");
    case 0x8d: return number(m, 8, &n) ? push_string(m, n) : bad(m, "truncated string");
    case 'J': /* BININT */
        if (!number(m, 4, &n)) return bad(m, "truncated integer");
        return push(m,
                    (value){.kind = K_INT, .i = (int64_t)n - (n & 0x80000000u ? INT64_C(0x100000000) : 0)});
    case 'K':
    case 'M': /* BININT1, BININT2 */
        if (!number(m, op == 'K' ? 1 : 2, &n)) return bad(m, "truncated integer");
        return push(m, (value){.kind = K_INT, .i = (int64_t)n});
    case 0x8a: /* LONG1 */
        if (!number(m, 1, &n) || n > 8) return bad(m, "an integer has more than 64 bits");
        first = (uint32_t)n;
        if (!number(m, first, &n)) return bad(m, "truncated integer");
        if (first > 0 && first < 8 && n >> (8 * first - 1) & 1) n |= ~UINT64_C(0) << 8 * first;
        memcpy(&a.i, &n, 8);
        return push(m, (value){.kind = K_INT, .i = a.i});
    case 0x88:
    case 0x89: return push(m, (value){.kind = K_BOOL, .i = op == 0x88});
    case 'N': return push(m, (value){.kind = K_NONE});
    case 'G': /* BINFLOAT: no tensor needs its value */
        return take(m, 8, &p) ? push(m, (value){.kind = K_REAL}) : bad(m, "truncated number");
    case 'c': /* GLOBAL */
        if (!line(m, &s1, &n1) || !line(m, &s2, &n2)) return bad(m, "truncated global");
        return push_global(m, s1, n1, s2, n2);
    case 0x93: /* STACK_GLOBAL */
        if (!pop(m, &b) || !pop(m, &a) || a.kind != K_STRING || b.kind != K_STRING)
            return bad(m, "STACK_GLOBAL needs two strings");
        return push_global(m, a.s, a.length, b.s, b.length);
    case 'q': return number(m, 1, &n) ? put(m, n) : bad(m, "truncated memo number");
    case 'r': return number(m, 4, &n) ? put(m, n) : bad(m, "truncated memo number");
    case 0x94: return put(m, m->memo_count);
    case 'h': return number(m, 1, &n) ? memo_get(m, n) : bad(m, "truncated memo number");
    case 'j': return number(m, 4, &n) ? memo_get(m, n) : bad(m, "truncated memo number");
    case 'Q': /* BINPERSID */
        if (!pop(m, &a)) return bad(m, "no persistent id");
        return persistent_storage(m, a);
    case 'R': return reduce(m);
    case 'b': /* BUILD: the attributes of a state dict (its _metadata) are not needed */
        if (!pop(m, &a) || m->stack_count <= floor_of(m) || m->stack[m->stack_count - 1].kind != K_DICT)
            return bad(m, "BUILD on something that is not a dict");
        return T3V_OK;
    case 's':
    case 'a': /* SETITEM, APPEND */
        first = op == 's' ? 2 : 1;
        if (m->stack_count - floor_of(m) < first) return bad(m, "too few values for an item");
        return fill(m, m->stack_count - first, op == 's' ? K_DICT : K_LIST);
    case 'u':
    case 'e': /* SETITEMS, APPENDS */
        if (!since_mark(m, &first)) return bad(m, "items without a mark");
        return fill(m, first, op == 'u' ? K_DICT : K_LIST);
    case '.': *stop = true; return T3V_OK;
    default:
        m->at--;
        return t3v_fail(T3V_E_UNSUPPORTED,
                        "%s: the pickle uses opcode 0x%02x at byte %zu, which a file of weights does "
                        "not need; not loaded",
                        m->label, op, m->at);
    }
}

/* ---- the state dict -------------------------------------------------------------------------- */

/* Goes down the known wrappers. */
static t3v_status unwrap(const machine *m, value top, const object **dict)
{
    static const char *const wraps[] = {"model_state", "state_dict", "model", "module"};
    for (int depth = 0;; depth++) {
        if (top.kind != K_DICT)
            return t3v_fail(T3V_E_FORMAT, "%s: the pickle is %s, expected a dict of tensors", m->label,
                            kind_names[top.kind]);
        const object *d = *dict = &m->objects[top.i];
        bool down = false;
        for (size_t w = 0; w < 4 && !down; w++)
            for (uint32_t i = 0; i + 1 < d->count && !down; i += 2)
                if (is_string(d->items[i], wraps[w]) && d->items[i + 1].kind == K_DICT) {
                    top = d->items[i + 1];
                    down = true;
                }
        if (!down) return T3V_OK;
        if (depth == WRAP_DEPTH) return bad(m, "the state dict is wrapped too deeply");
    }
}

static const char *copy_string(char **at, value v)
{
    char *s = *at;
    memcpy(s, v.s, v.length);
    s[v.length] = 0;
    *at += v.length + 1;
    return s;
}

static t3v_status collect(const machine *m, const object *dict, t3v_pickle *p)
{
    size_t bytes = 1;
    for (uint32_t i = 0; i + 1 < dict->count; i += 2)
        if (dict->items[i].kind == K_STRING && dict->items[i + 1].kind == K_TENSOR)
            bytes += dict->items[i].length + 1 + m->tensors[dict->items[i + 1].i].key.length + 1, p->count++;
    if (!p->count)
        return t3v_fail(T3V_E_FORMAT,
                        "%s: no tensors in the dict (%u entries); expected a state dict, or one under "
                        "model_state, state_dict, model or module",
                        m->label, dict->count / 2);
    p->tensors = malloc((size_t)p->count * sizeof *p->tensors);
    char *s = p->strings = malloc(bytes);
    if (!p->tensors || !s)
        return t3v_fail(T3V_E_NOMEM, "%s: no memory for %lld tensors", m->label, (long long)p->count);
    t3v_pickle_tensor *t = p->tensors;
    for (uint32_t i = 0; i + 1 < dict->count; i += 2) {
        value k = dict->items[i], v = dict->items[i + 1];
        if (k.kind != K_STRING || v.kind != K_TENSOR) {
            t3v_debug("%s: the dict's entry %u is %s, not a named tensor: left out", m->label, i / 2,
                      kind_names[v.kind]);
            continue;
        }
        *t = m->tensors[v.i].tensor;
        t->name = copy_string(&s, k);
        t->key = copy_string(&s, m->tensors[v.i].key);
        t++;
    }
    return T3V_OK;
}

t3v_status t3v_pickle_load(t3v_pickle **out, const char *label, const unsigned char *buf, size_t len)
{
    *out = NULL;
    if (len > PICKLE_CAP)
        return t3v_fail(T3V_E_TOO_BIG, "%s: the pickle has %zu bytes, the limit is %d", label, len,
                        PICKLE_CAP);
    machine *m = calloc(1, sizeof *m);
    t3v_pickle *p = calloc(1, sizeof *p);
    t3v_status st = m && p ? T3V_OK : t3v_fail(T3V_E_NOMEM, "%s: no memory for the pickle", label);
    bool stop = false;
    if (!st) *m = (machine){.label = label, .buf = buf, .len = len};
    while (!st && !stop) st = m->at < len ? step(m, &stop) : bad(m, "it ends without STOP");
    const object *dict = NULL;
    if (!st && (m->stack_count != 1 || m->mark_count)) st = bad(m, "values are left over at its end");
    if (!st) st = unwrap(m, m->stack[0], &dict);
    if (!st) st = collect(m, dict, p);
    if (m) {
        for (uint32_t i = 0; i < m->objects_count; i++) free(m->objects[i].items);
        free(m->stack);
        free(m->memo);
        free(m->objects);
        free(m->storages);
        free(m->tensors);
        free(m);
    }
    if (st) t3v_pickle_free(p);
    else *out = p;
    return st;
}

const t3v_pickle_tensor *t3v_pickle_tensors(const t3v_pickle *p, int64_t *n)
{
    *n = p->count;
    return p->tensors;
}

void t3v_pickle_free(t3v_pickle *p)
{
    if (!p) return;
    free(p->tensors);
    free(p->strings);
    free(p);
}
