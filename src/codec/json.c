/* Parsing and reading. json_out.c writes, json_canonical.c canonicalises, json_edit.c edits. */
#include "codec/json.h"

#include "base/diag.h"
#include "codec/json_internal.h"

#define DOUBLE_INT_MAX 9007199254740992.0 /* 2^53: up to here a double is exact to one */
#define PAIRWISE_MAX 8                    /* keys compared each with each, without sorting */
#define POINTER_TOKEN_MAX 256

/* --- parsing ---------------------------------------------------------------------------------- */

/* yyjson's allocator on an arena. An arena cannot take a grown array's old place back, so the array
 * of values gets at once all the room that text can need. */
typedef struct {
    Arena *arena;
    size_t room_bytes;
    void *values; /* yyjson's second allocation; its first is the copy of the text */
    bool copied;
    bool exhausted; /* the arena refused */
    bool overfull;  /* more values than any JSON of this length has: brackets never closed */
} ArenaAlc;

static void *alc_malloc(void *context, size_t size)
{
    ArenaAlc *a = context;
    bool values = a->copied && !a->values;
    if (values) a->room_bytes = size = MAX(size, a->room_bytes);
    void *p = arena_alloc(a->arena, size);
    if (!p) a->exhausted = true;
    if (values) a->values = p;
    a->copied = true;
    return p;
}

static void *alc_realloc(void *context, void *old, size_t old_size, size_t size)
{
    ArenaAlc *a = context;
    if (old == a->values) {
        if (size <= a->room_bytes) return old;
        a->overfull = true;
        return NULL;
    }
    void *p = arena_realloc(a->arena, old, old_size, size);
    if (!p) a->exhausted = true;
    return p;
}

static void alc_free(void *context, void *p)
{
    (void)context, (void)p; /* goes with the arena */
}

/* How many bytes of text are , : [ or { */
static size_t separators_n(Str text)
{
    const char *p = text.ptr, *end = p + text.len;
    size_t n = 0;
    while (end - p >= 16) {
        JsonBytes counts = { 0 }; /* of up to 255 rounds, so that none overflows */
        for (int round = 0; round < 255 && end - p >= 16; round++, p += 16) {
            JsonBytes v = json_bytes(p);
            counts -= (JsonBytes)((v == ',') | (v == ':') |
                                  ((v & 0xdf) == '[')); /* { is 0x20 more */
        }
        for (int i = 0; i < 16; i++) n += counts[i];
    }
    for (; p < end; p++) n += *p == ',' || *p == ':' || *p == '[' || *p == '{';
    return n;
}

/* Upper bound of what yyjson asks for its values: all but the root follow a separator and at most
 * every second byte begins one; 16 bytes each; the array grows by half at a time. */
static size_t values_bytes_max(Str text)
{
    return MIN(separators_n(text), text.len / 2) * (sizeof(yyjson_val) * 3 / 2) + 256;
}

static int parse_fail(Str text, size_t offset, const char *message, JsonError *error)
{
    JsonError e = { .offset = MIN(offset, text.len), .line = 1, .column = 1, .message = message };
    for (size_t i = 0; i < e.offset; i++) {
        e.column++;
        if (text.ptr[i] == '\n') e.line++, e.column = 1;
    }
    if (error) *error = e;
    return diag_set(-EINVAL, "line %zu column %zu: %s", e.line, e.column, message);
}

/* Where the bracket beyond depth_max stands; the text's end when there is none. */
static size_t too_deep_offset(Str text, size_t depth_max)
{
    size_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (in_string) {
            if (c == '\\') i++;
            else if (c == '"') in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (depth++ == depth_max) return i;
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
    }
    return text.len;
}

int json_key_cmp_fast(Str a, Str b)
{
    if (a.len != b.len) return a.len < b.len ? -1 : 1;
    return a.len ? memcmp(a.ptr, b.ptr, a.len) : 0;
}

/* Merges the sorted runs [from, middle) and [middle, to) of in into out. */
static void keys_merge(const Json **in, const Json **out, size_t from, size_t middle, size_t to,
                       JsonKeyCmp cmp)
{
    size_t left = from, right = middle;
    for (size_t i = from; i < to; i++) {
        bool take_left = right == to || (left < middle &&
                                         cmp(json_raw_str(in[left]), json_raw_str(in[right])) <= 0);
        out[i] = take_left ? in[left++] : in[right++];
    }
}

/* A merge sort: qsort(3) may be quadratic or allocate, and keys are chosen by outsiders. */
void json_keys_sort(const Json **keys, const Json **scratch, size_t n, JsonKeyCmp cmp)
{
    const Json **in = keys, **out = scratch;
    for (size_t run = 1; run < n; run *= 2) {
        for (size_t from = 0; from < n; from += 2 * run)
            keys_merge(in, out, from, MIN(from + run, n), MIN(from + 2 * run, n), cmp);
        const Json **swap = in;
        in = out;
        out = swap;
    }
    if (in != keys && n > 0) memcpy(keys, in, n * sizeof *keys);
}

/* The pass over a document that yyjson has accepted. */
typedef struct {
    Arena *arena;
    size_t depth_max;
    size_t members_max;
    const Json **scratch; /* for sorting keys, reused: never more than 16 bytes a member in all */
    size_t scratch_n;
    const Json *at; /* the key that a check stumbled over, if it was one */
} Check;

static int keys_check_pairwise(Check *check, const Json *object, size_t n)
{
    const Json *key = json_first_key(object);
    for (size_t i = 0; i < n; i++, key = json_next_key(key)) {
        const Json *earlier = json_first_key(object);
        for (; earlier != key; earlier = json_next_key(earlier)) {
            if (!str_eq(json_raw_str(earlier), json_raw_str(key))) continue;
            check->at = key;
            return -EINVAL;
        }
    }
    return 0;
}

static int keys_check_sorted(Check *check, const Json *object, size_t n)
{
    if (check->scratch_n < 2 * n) {
        check->scratch = ARENA_ARRAY(check->arena, const Json *, 2 * n);
        if (!check->scratch) return -ENOMEM;
        check->scratch_n = 2 * n;
    }
    const Json *key = json_first_key(object);
    for (size_t i = 0; i < n; i++, key = json_next_key(key)) check->scratch[i] = key;
    json_keys_sort(check->scratch, check->scratch + n, n, json_key_cmp_fast);
    for (size_t i = 1; i < n; i++) {
        if (!str_eq(json_raw_str(check->scratch[i - 1]), json_raw_str(check->scratch[i]))) continue;
        check->at = MAX(check->scratch[i - 1], check->scratch[i]); /* the later one */
        return -EINVAL;
    }
    return 0;
}

/* Returns 0, -EINVAL (a key comes twice), -E2BIG (too many members), -ENOMEM. */
static int object_check(Check *check, const Json *object)
{
    size_t n = unsafe_yyjson_get_len(json_raw(object));
    if (n > check->members_max) {
        check->at = json_first_key(object);
        return -E2BIG;
    }
    if (n <= PAIRWISE_MAX) return keys_check_pairwise(check, object, n);
    return keys_check_sorted(check, object, n);
}

/* As object_check for each object, and -ELOOP (too deep). Values lie in document order, so a loop
 * and a stack of where containers end will do. */
static int document_check(Check *check, const yyjson_doc *doc)
{
    const Json *ends[JSON_DEPTH_DEFAULT];
    size_t depth = 0;
    for (const Json *v = doc->root, *end = v + doc->val_read; v < end; v++) {
        while (depth > 0 && v == ends[depth - 1]) depth--;
        if (!unsafe_yyjson_is_ctn(json_raw(v))) continue;
        if (depth == check->depth_max) return -ELOOP;
        ends[depth++] = unsafe_yyjson_get_next(json_raw(v));
        int r = unsafe_yyjson_is_obj(json_raw(v)) ? object_check(check, v) : 0;
        if (r < 0) return r;
    }
    return 0;
}

static int read_fail(const ArenaAlc *a, Str text, const Check *check, const yyjson_read_err *err,
                     JsonError *error)
{
    if (a->overfull)
        return parse_fail(text, too_deep_offset(text, check->depth_max), "nested too deeply",
                          error);
    if (a->exhausted) return diag_set(-ENOMEM, "JSON of %zu bytes needs too much memory", text.len);
    return parse_fail(text, err->pos, err->msg ? err->msg : "not JSON", error);
}

static int check_fail(int r, const yyjson_doc *doc, Str text, const Check *check, JsonError *error)
{
    /* strings stay where they were in yyjson's copy of the text, behind their quote */
    size_t offset = check->at ? (size_t)(json_raw_str(check->at).ptr - doc->str_pool) - 1 : 0;
    if (r == -ENOMEM) return diag_set(r, "JSON of %zu bytes needs too much memory", text.len);
    if (r == -E2BIG) return parse_fail(text, offset, "an object has too many members", error);
    if (r == -EINVAL) return parse_fail(text, offset, "the same key twice in one object", error);
    assert(r == -ELOOP);
    return parse_fail(text, too_deep_offset(text, check->depth_max), "nested too deeply", error);
}

int json_parse(Arena *arena, Str text, const JsonLimits *limits, const Json **ret,
               JsonError *ret_error)
{
    Check check = {
        .arena = arena,
        .depth_max = limits && limits->depth_max ? limits->depth_max : JSON_DEPTH_DEFAULT,
        .members_max = limits && limits->members_max ? limits->members_max : JSON_MEMBERS_DEFAULT
    };
    assert(check.depth_max <= JSON_DEPTH_DEFAULT);
    if (text.len == 0) return parse_fail(text, 0, "the text is empty", ret_error);

    ArenaAlc a = { .arena = arena, .room_bytes = values_bytes_max(text) };
    yyjson_alc alc = { alc_malloc, alc_realloc, alc_free, &a };
    yyjson_read_flag flags = YYJSON_READ_BIGNUM_AS_RAW;
    if (limits && limits->numbers_as_text) flags |= YYJSON_READ_NUMBER_AS_RAW;
    yyjson_read_err err;
    /* yyjson writes to the text only with YYJSON_READ_INSITU */
    yyjson_doc *doc = yyjson_read_opts((char *)text.ptr, text.len, flags, &alc, &err);
    if (!doc) return read_fail(&a, text, &check, &err, ret_error);
    int r = document_check(&check, doc);
    if (r < 0) return check_fail(r, doc, text, &check, ret_error);
    *ret = doc->root;
    return 0;
}

/* --- reading ---------------------------------------------------------------------------------- */

JsonType json_type(const Json *v)
{
    switch (yyjson_get_tag(json_raw(v))) {
    case YYJSON_TYPE_NULL | YYJSON_SUBTYPE_NONE: return JSON_NULL;
    case YYJSON_TYPE_BOOL | YYJSON_SUBTYPE_FALSE:
    case YYJSON_TYPE_BOOL | YYJSON_SUBTYPE_TRUE: return JSON_BOOL;
    case YYJSON_TYPE_NUM | YYJSON_SUBTYPE_UINT:
    case YYJSON_TYPE_NUM | YYJSON_SUBTYPE_SINT: return JSON_INT;
    case YYJSON_TYPE_NUM | YYJSON_SUBTYPE_REAL: return JSON_REAL;
    case YYJSON_TYPE_ARR | YYJSON_SUBTYPE_NONE: return JSON_ARRAY;
    case YYJSON_TYPE_OBJ | YYJSON_SUBTYPE_NONE: return JSON_OBJECT;
    default: break;
    }
    if (yyjson_is_raw(json_raw(v))) return JSON_BIG;
    if (yyjson_is_str(json_raw(v))) return JSON_STRING; /* of whichever subtype */
    assert(v == NULL);
    return JSON_ABSENT;
}

const char *json_type_name(JsonType type)
{
    static const char *const names[] = {
        [JSON_ABSENT] = "absent",   [JSON_NULL] = "null",      [JSON_BOOL] = "a boolean",
        [JSON_INT] = "an integer",  [JSON_REAL] = "a number",  [JSON_BIG] = "a number",
        [JSON_STRING] = "a string", [JSON_ARRAY] = "an array", [JSON_OBJECT] = "an object",
    };
    assert((size_t)type < ARRAY_N(names));
    return names[type];
}

const Json *json_get(const Json *v, const char *key)
{
    return json_get_str(v, str_of(key));
}

const Json *json_get_str(const Json *v, Str key)
{
    return yyjson_obj_getn(json_raw(v), key.ptr ? key.ptr : "", key.len);
}

Str json_str(const Json *v)
{
    return yyjson_is_str(json_raw(v)) ? json_raw_str(v) : STR_NULL;
}

bool json_bool(const Json *v, bool otherwise)
{
    return yyjson_is_bool(json_raw(v)) ? unsafe_yyjson_get_bool(json_raw(v)) : otherwise;
}

static int f64_to_i64(double d, int64_t *ret)
{
    if (d < -DOUBLE_INT_MAX || d > DOUBLE_INT_MAX) return -ERANGE;
    int64_t whole = (int64_t)d;
    if ((double)whole < d || (double)whole > d) return -EINVAL;
    *ret = whole;
    return 0;
}

int json_i64(const Json *v, int64_t *ret)
{
    yyjson_val *raw = json_raw(v);
    if (yyjson_is_raw(raw)) return str_to_i64(json_raw_str(v), ret);
    if (yyjson_is_real(raw)) return f64_to_i64(unsafe_yyjson_get_real(raw), ret);
    if (!yyjson_is_int(raw)) return -EINVAL;
    if (yyjson_is_uint(raw) && unsafe_yyjson_get_uint(raw) > INT64_MAX) return -ERANGE;
    *ret = unsafe_yyjson_get_sint(raw);
    return 0;
}

int64_t json_i64_or(const Json *v, int64_t otherwise)
{
    int64_t i;
    return json_i64(v, &i) == 0 ? i : otherwise;
}

double json_f64_or(const Json *v, double otherwise)
{
    return yyjson_is_num(json_raw(v)) ? unsafe_yyjson_get_num(json_raw(v)) : otherwise;
}

Str json_number_text(const Json *v)
{
    return yyjson_is_raw(json_raw(v)) ? json_raw_str(v) : STR_NULL;
}

size_t json_len(const Json *v)
{
    return yyjson_is_ctn(json_raw(v)) ? unsafe_yyjson_get_len(json_raw(v)) : 0;
}

const Json *json_at(const Json *array, size_t index)
{
    return yyjson_arr_get(json_raw(array), index);
}

/* A token with ~1 and ~0 decoded; false: malformed or too long. */
static bool token_decode(Str token, char out[POINTER_TOKEN_MAX], Str *ret)
{
    size_t n = 0;
    for (size_t i = 0; i < token.len; i++) {
        char c = token.ptr[i];
        if (n == POINTER_TOKEN_MAX) return false;
        if (c == '~') {
            i++;
            if (i == token.len || (token.ptr[i] != '0' && token.ptr[i] != '1')) return false;
            c = token.ptr[i] == '0' ? '~' : '/';
        }
        out[n++] = c;
    }
    *ret = str_make(out, n);
    return true;
}

static const Json *element_at(const Json *array, Str token)
{
    uint64_t index;
    bool zeros = token.len > 1 && token.ptr[0] == '0';
    if (zeros || str_to_u64(token, &index) < 0 || index >= json_len(array)) return NULL;
    return json_at(array, (size_t)index);
}

const Json *json_pointer(const Json *v, Str pointer)
{
    char text[POINTER_TOKEN_MAX];
    Str token;
    if (pointer.len > 0 && pointer.ptr[0] != '/') return NULL;
    bool more = pointer.len > 0;
    Str rest = str_skip(pointer, 1);
    while (more && v) {
        rest = str_split(rest, '/', &token, &more);
        if (!token_decode(token, text, &token)) return NULL;
        v = json_type(v) == JSON_ARRAY ? element_at(v, token) : json_get_str(v, token);
    }
    return v;
}

JsonIter json_iter(const Json *v)
{
    JsonIter it = { .container = v, .left = json_len(v) };
    if (it.left) it.cursor = unsafe_yyjson_get_first(json_raw(v));
    return it;
}

bool json_next(JsonIter *it)
{
    if (it->left == 0) return false;
    it->left--;
    if (unsafe_yyjson_is_obj(json_raw(it->container))) {
        it->key = json_raw_str(it->cursor);
        it->cursor++;
    }
    it->value = it->cursor;
    it->cursor = unsafe_yyjson_get_next(json_raw(it->cursor));
    return true;
}

/* --- comparing: recursion is bounded by JSON_DEPTH_DEFAULT ------------------------------------ */

/* n keys from first on, sorted; they stay in room. */
static const Json **keys_sorted(const Json *first, size_t n, Buf *room)
{
    buf_init(room, 2 * n * sizeof first);
    const Json **keys = (const Json **)(void *)buf_reserve(room, 2 * n * sizeof first);
    if (!keys) DIE("no memory to compare objects of %zu members", n); /* less than they take */
    for (size_t i = 0; i < n; i++, first = json_next_key(first)) keys[i] = first;
    json_keys_sort(keys, keys + n, n, json_key_cmp_fast);
    return keys;
}

static bool member_eq(const Json *a, const Json *b)
{
    return str_eq(json_raw_str(a), json_raw_str(b)) && json_eq(a + 1, b + 1);
}

/* n members each, from keys a and b on, in any order. */
static bool members_eq_sorted(const Json *a, const Json *b, size_t n)
{
    CLEANUP(buf_deinit) Buf a_room = { 0 };
    CLEANUP(buf_deinit) Buf b_room = { 0 };
    const Json **a_keys = keys_sorted(a, n, &a_room);
    const Json **b_keys = keys_sorted(b, n, &b_room);
    for (size_t i = 0; i < n; i++)
        if (!member_eq(a_keys[i], b_keys[i])) return false;
    return true;
}

static bool object_eq(const Json *a, const Json *b)
{
    const Json *a_key = json_first_key(a), *b_key = json_first_key(b);
    for (size_t left = json_len(a); left > 0; left--) {
        if (!str_eq(json_raw_str(a_key), json_raw_str(b_key)))
            return members_eq_sorted(a_key, b_key, left);
        if (!json_eq(a_key + 1, b_key + 1)) return false;
        a_key = json_next_key(a_key);
        b_key = json_next_key(b_key);
    }
    return true;
}

static bool array_eq(const Json *a, const Json *b)
{
    JsonIter in_a = json_iter(a), in_b = json_iter(b);
    while (json_next(&in_a) && json_next(&in_b))
        if (!json_eq(in_a.value, in_b.value)) return false;
    return true;
}

/* By value: yyjson's subtype also tells -0 from 0. */
static bool int_negative(const Json *v)
{
    return yyjson_is_sint(json_raw(v)) && unsafe_yyjson_get_sint(json_raw(v)) < 0;
}

bool json_eq(const Json *a, const Json *b)
{
    JsonType type = json_type(a);
    if (type != json_type(b)) return false;
    switch (type) {
    case JSON_ABSENT:
    case JSON_NULL: return true;
    case JSON_BOOL: return json_bool(a, false) == json_bool(b, false);
    case JSON_INT: return a->uni.u64 == b->uni.u64 && int_negative(a) == int_negative(b);
    case JSON_REAL: return a->uni.u64 == b->uni.u64;
    case JSON_BIG:
    case JSON_STRING: return str_eq(json_raw_str(a), json_raw_str(b));
    case JSON_ARRAY: return json_len(a) == json_len(b) && array_eq(a, b);
    case JSON_OBJECT: return json_len(a) == json_len(b) && object_eq(a, b);
    }
    assert(false);
    return false;
}
