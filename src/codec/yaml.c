/* libfyaml's events become JSON text, which json_parse then checks and reads: one set of rules for
 * both languages, and nothing here recurses. An alias copies the text of its anchor. */
#include "codec/yaml.h"

#include <stdio.h>

#include <libfyaml.h>

#include "base/diag.h"
#include "codec/json_internal.h"

#define ANCHORS_MAX 256
#define NO_MARK UINT32_MAX

/* A member or an element, at its place in the tree. */
typedef struct {
    Str key;          /* of a member, decoded; of an element empty: its ordinal counts */
    uint32_t ordinal; /* among its parent's children */
    uint32_t first_child, last_child, next; /* NO_MARK: none */
    uint32_t line, column;                  /* from 1 */
    uint32_t json_offset;                   /* where its key, or it, begins in the JSON text */
    bool is_object;
} Mark;

struct YamlMarks {
    size_t n;
    Mark marks[]; /* [0] is the root; ascending json_offset */
};

typedef struct {
    Str name;
    size_t from, to;   /* span in the JSON text; to is 0 while the node is open */
    size_t nodes_from; /* nodes counted before it, and once it is closed: of it */
    size_t nodes;
} Anchor;

/* A container that is open. */
typedef struct {
    uint32_t mark;
    size_t anchor; /* index + 1, or 0 */
    bool is_object;
    bool after_key; /* of an object: the value is next */
    bool has_items;
} Level;

typedef struct {
    Arena *arena;
    Buf json;
    Buf marks;
    Buf text; /* of the current scalar */
    Level levels[JSON_DEPTH_DEFAULT];
    size_t depth;
    Anchor anchors[ANCHORS_MAX];
    size_t anchors_n;
    size_t nodes;
    size_t documents;
    uint32_t value_mark; /* of the value being added */
} Yaml;

/* --- errors ----------------------------------------------------------------------------------- */

static int fail_at(size_t line, size_t column, const char *message)
{
    return diag_set(-EINVAL, "line %zu column %zu: %s", line, column, message);
}

static bool is_quoted(struct fy_event *event)
{
    if (event->type != FYET_SCALAR || !event->scalar.value) return false;
    enum fy_scalar_style style = fy_token_scalar_style(event->scalar.value);
    return style == FYSS_SINGLE_QUOTED || style == FYSS_DOUBLE_QUOTED;
}

/* Where event begins, from 1. libfyaml's tokens begin behind the quote or the asterisk. */
static void position(struct fy_event *event, uint32_t *ret_line, uint32_t *ret_column)
{
    const struct fy_mark *at = fy_event_start_mark(event);
    bool inside = event && (event->type == FYET_ALIAS || is_quoted(event));
    *ret_line = at ? (uint32_t)at->line + 1 : 1;
    *ret_column = at ? (uint32_t)at->column + (inside && at->column > 0 ? 0 : 1) : 1;
}

static int fail_event(struct fy_event *event, const char *message)
{
    uint32_t line, column;
    position(event, &line, &column);
    return fail_at(line, column, message);
}

/* Nothing but this stands between libfyaml and stderr. */
static void output_drop(struct fy_diag *diag, void *user, const char *text, size_t len)
{
    (void)diag, (void)user, (void)text, (void)len;
}

static struct fy_diag *diag_collector(void)
{
    struct fy_diag_cfg cfg;
    fy_diag_cfg_default(&cfg);
    cfg.fp = NULL;
    cfg.output_fn = output_drop;
    cfg.colorize = false;
    struct fy_diag *diag = fy_diag_create(&cfg);
    if (diag) fy_diag_set_collect_errors(diag, true);
    return diag;
}

static int fail_collected(struct fy_diag *diag)
{
    void *cursor = NULL;
    struct fy_diag_error *e = fy_diag_errors_iterate(diag, &cursor);
    if (!e) return diag_set(-EINVAL, "not YAML");
    return fail_at((size_t)MAX(e->line, 1), (size_t)MAX(e->column, 1),
                   e->msg ? e->msg : "not YAML");
}

/* --- marks ------------------------------------------------------------------------------------ */

static Mark *mark_at(const Buf *marks, uint32_t index)
{
    return (Mark *)(void *)marks->ptr + index;
}

static uint32_t marks_n(const Buf *marks)
{
    return (uint32_t)(marks->len / sizeof(Mark));
}

/* Adds a mark for event as the last child of parent (NO_MARK: it is the root). */
static int mark_add(Yaml *y, uint32_t parent, Str key, struct fy_event *event)
{
    uint32_t index = marks_n(&y->marks);
    Mark mark = { .key = key,
                  .first_child = NO_MARK,
                  .last_child = NO_MARK,
                  .next = NO_MARK,
                  .json_offset = (uint32_t)y->json.len };
    position(event, &mark.line, &mark.column);
    if (parent != NO_MARK) {
        Mark *p = mark_at(&y->marks, parent);
        if (p->last_child == NO_MARK) {
            p->first_child = index;
        } else {
            Mark *before = mark_at(&y->marks, p->last_child);
            mark.ordinal = before->ordinal + 1;
            before->next = index;
        }
        p->last_child = index;
    }
    if (!buf_add(&y->marks, str_make((const char *)&mark, sizeof mark))) return -ENOMEM;
    y->value_mark = index;
    return 0;
}

/* --- scalars ---------------------------------------------------------------------------------- */

static size_t digits_n(Str s)
{
    size_t n = 0;
    while (n < s.len && s.ptr[n] >= '0' && s.ptr[n] <= '9') n++;
    return n;
}

/* The grammar of RFC 8259 section 6. */
static bool is_json_number(Str s)
{
    if (str_starts_with(s, STR("-"))) s = str_skip(s, 1);
    size_t n = digits_n(s);
    if (n == 0 || (n > 1 && s.ptr[0] == '0')) return false;
    s = str_skip(s, n);
    if (str_starts_with(s, STR("."))) {
        n = digits_n(str_skip(s, 1));
        if (n == 0) return false;
        s = str_skip(s, n + 1);
    }
    if (s.len > 0 && (s.ptr[0] == 'e' || s.ptr[0] == 'E')) {
        s = str_skip(s, 1);
        if (s.len > 0 && (s.ptr[0] == '+' || s.ptr[0] == '-')) s = str_skip(s, 1);
        n = digits_n(s);
        if (n == 0) return false;
        s = str_skip(s, n);
    }
    return s.len == 0;
}

/* The JSON word that a plain scalar stands for (YAML 1.2 section 10.3.2), or the empty Str. */
static Str plain_word(Str s)
{
    static const struct {
        const char *plain, *json;
    } words[] = { { "true", "true" },   { "True", "true" },   { "TRUE", "true" },
                  { "false", "false" }, { "False", "false" }, { "FALSE", "false" },
                  { "null", "null" },   { "Null", "null" },   { "NULL", "null" },
                  { "~", "null" },      { "", "null" } };
    for (size_t i = 0; i < ARRAY_N(words); i++)
        if (str_eq(s, str_of(words[i].plain))) return str_of(words[i].json);
    return is_json_number(s) ? s : STR_NULL;
}

/* The contents of a scalar, in y->text until the next call. By pieces: fy_token_get_text leaks when
 * there are many of them, and with some line breaks counts bytes that it never wrote. */
static int scalar_text(Yaml *y, struct fy_event *event, Str *ret)
{
    struct fy_token *token = event->scalar.value;
    struct fy_token_iter *iter = token ? fy_token_iter_create(token) : NULL;
    const struct fy_iter_chunk *chunk = NULL;
    int failed = 0;
    buf_clear(&y->text);
    *ret = STR("");
    if (!token) return 0;
    if (!iter) return -ENOMEM;
    while ((chunk = fy_token_iter_chunk_next(iter, chunk, &failed)))
        buf_add(&y->text, str_make(chunk->str, chunk->len));
    fy_token_iter_finish(iter);
    fy_token_iter_destroy(iter);
    if (failed || y->text.failed) return fail_event(event, "a scalar that cannot be read");
    *ret = str_make(y->text.ptr ? y->text.ptr : "", y->text.len);
    return 0;
}

/* Of an anchor, alias or tag. */
static Str token_text(struct fy_token *token)
{
    size_t len = 0;
    const char *text = token ? fy_token_get_text(token, &len) : NULL;
    return (Str){ text, text ? len : 0 };
}

/* Returns 0, 1 (the tag says string) or -EINVAL. */
static int tag_check(struct fy_event *event, struct fy_token *tag)
{
    if (!tag) return 0;
    Str text = token_text(tag);
    if (event->type == FYET_SCALAR &&
        (str_eq(text, STR("tag:yaml.org,2002:str")) || str_eq(text, STR("!"))))
        return 1;
    return fail_event(event, "tags other than !!str are not supported");
}

static int scalar_put(Yaml *y, struct fy_event *event)
{
    struct fy_token *token = event->scalar.value;
    Str text;
    int r = scalar_text(y, event, &text);
    if (r < 0) return r;
    r = tag_check(event, event->scalar.tag);
    if (r < 0) return r;
    bool plain = r == 0 && (!token || fy_token_scalar_style(token) == FYSS_PLAIN);
    Str word = plain ? plain_word(text) : STR_NULL;
    if (word.len > 0) buf_add(&y->json, word);
    else if (!json_is_utf8(text)) return fail_event(event, "an escape that is not a character");
    else json_text_add(&y->json, text);
    return 0;
}

/* --- structure -------------------------------------------------------------------------------- */

static Level *level_top(Yaml *y)
{
    return y->depth > 0 ? &y->levels[y->depth - 1] : NULL;
}

static int node_count(Yaml *y, size_t n)
{
    if (n > YAML_NODES_MAX - y->nodes)
        return diag_set(-EFBIG, "over %zu nodes, aliases expanded", YAML_NODES_MAX);
    y->nodes += n;
    return 0;
}

static int too_large(const Yaml *y)
{
    return diag_set(-EFBIG, "over %zu bytes, aliases expanded", y->json.max);
}

/* The anchor of a value about to be put: opens it. *ret is its index + 1, 0 when token is NULL. */
static int anchor_open(Yaml *y, struct fy_event *event, struct fy_token *token, size_t *ret)
{
    *ret = 0;
    if (!token) return 0;
    if (y->anchors_n == ANCHORS_MAX) return fail_event(event, "too many anchors");
    Str name = arena_str(y->arena, token_text(token));
    if (!name.ptr) return -ENOMEM;
    y->anchors[y->anchors_n++] = (Anchor){ .name = name,
                                           .from = y->json.len,
                                           .nodes_from = y->nodes };
    *ret = y->anchors_n;
    return 0;
}

static void anchor_close(Yaml *y, size_t anchor)
{
    if (anchor == 0) return;
    Anchor *a = &y->anchors[anchor - 1];
    a->to = y->json.len;
    a->nodes = y->nodes - a->nodes_from;
}

/* Puts what the anchor's node became once more. */
static int alias_put(Yaml *y, struct fy_event *event)
{
    Str name = token_text(event->alias.anchor);
    size_t i = y->anchors_n;
    while (i > 0 && !str_eq(y->anchors[i - 1].name, name)) i--; /* the latest of that name */
    if (i == 0) return fail_event(event, "an alias without its anchor before it");
    const Anchor *a = &y->anchors[i - 1];
    if (a->to == 0) return fail_event(event, "an alias inside what it stands for");
    int r = node_count(y, a->nodes);
    if (r < 0) return r;
    size_t len = a->to - a->from;
    char *room = buf_reserve(&y->json, len);
    if (!room) return too_large(y);
    memcpy(room, y->json.ptr + a->from, len);
    buf_added(&y->json, len);
    return 0;
}

/* A value ends: what follows in an object is a key. */
static void value_end(Yaml *y)
{
    Level *top = level_top(y);
    if (top) top->after_key = false;
}

/* What stands before a value that is not a member's: the comma, its mark. */
static int value_begin(Yaml *y, struct fy_event *event)
{
    Level *top = level_top(y);
    int r = node_count(y, 1);
    if (r < 0) return r;
    if (!top) return mark_add(y, NO_MARK, STR_NULL, event);
    if (top->is_object) {
        if (top->after_key) return 0; /* the key's mark is the member's */
        return fail_event(event, "a key must be a scalar");
    }
    if (top->has_items) buf_add_char(&y->json, ',');
    top->has_items = true;
    return mark_add(y, top->mark, STR_NULL, event);
}

static int key_put(Yaml *y, struct fy_event *event)
{
    Level *top = level_top(y);
    Str key;
    int r = scalar_text(y, event, &key);
    if (r < 0) return r;
    if (str_eq(key, STR("<<")) && !is_quoted(event))
        return fail_event(event, "merge keys (<<) are not supported");
    if (!json_is_utf8(key)) return fail_event(event, "an escape that is not a character");
    if (event->scalar.anchor) return fail_event(event, "an anchor on a key is not supported");
    key = arena_str(y->arena, key);
    if (!key.ptr) return -ENOMEM;
    r = tag_check(event, event->scalar.tag);
    if (r >= 0) r = node_count(y, 1);
    if (r < 0) return r;
    if (top->has_items) buf_add_char(&y->json, ',');
    r = mark_add(y, top->mark, key, event);
    if (r < 0) return r;
    json_text_add(&y->json, key);
    buf_add_char(&y->json, ':');
    top->has_items = top->after_key = true;
    return 0;
}

static int on_scalar(Yaml *y, struct fy_event *event)
{
    Level *top = level_top(y);
    size_t anchor;
    if (top && top->is_object && !top->after_key) return key_put(y, event);
    int r = value_begin(y, event);
    if (r >= 0) r = anchor_open(y, event, event->scalar.anchor, &anchor);
    if (r >= 0) r = scalar_put(y, event);
    if (r < 0) return r;
    anchor_close(y, anchor);
    value_end(y);
    return 0;
}

static int on_alias(Yaml *y, struct fy_event *event)
{
    int r = value_begin(y, event);
    if (r >= 0) r = alias_put(y, event);
    if (r < 0) return r;
    value_end(y);
    return 0;
}

static int on_start(Yaml *y, struct fy_event *event, struct fy_token *anchor_token,
                    struct fy_token *tag)
{
    bool is_object = event->type == FYET_MAPPING_START;
    size_t anchor;
    int r = tag_check(event, tag);
    if (r >= 0) r = value_begin(y, event);
    if (r >= 0) r = anchor_open(y, event, anchor_token, &anchor);
    if (r < 0) return r;
    if (y->depth == JSON_DEPTH_DEFAULT) return fail_event(event, "nested too deeply");
    buf_add_char(&y->json, is_object ? '{' : '[');
    mark_at(&y->marks, y->value_mark)->is_object = is_object;
    y->levels[y->depth++] = (Level){ .mark = y->value_mark,
                                     .anchor = anchor,
                                     .is_object = is_object };
    return 0;
}

static int on_end(Yaml *y)
{
    Level *top = level_top(y);
    assert(top && !top->after_key);
    buf_add_char(&y->json, top->is_object ? '}' : ']');
    anchor_close(y, top->anchor);
    y->depth--;
    value_end(y);
    return 0;
}

static int on_event(Yaml *y, struct fy_event *event)
{
    switch (event->type) {
    case FYET_DOCUMENT_START:
        if (y->documents++ == 0) return 0;
        return fail_event(event, "a second document");
    case FYET_SCALAR: return on_scalar(y, event);
    case FYET_ALIAS: return on_alias(y, event);
    case FYET_MAPPING_START:
        return on_start(y, event, event->mapping_start.anchor, event->mapping_start.tag);
    case FYET_SEQUENCE_START:
        return on_start(y, event, event->sequence_start.anchor, event->sequence_start.tag);
    case FYET_MAPPING_END:
    case FYET_SEQUENCE_END: return on_end(y);
    default: return 0;
    }
}

/* --- parsing ---------------------------------------------------------------------------------- */

static int events_read(Yaml *y, struct fy_parser *parser, struct fy_diag *diag)
{
    struct fy_event *event;
    int r = 0;
    while (r == 0 && (event = fy_parser_parse(parser))) {
        r = on_event(y, event);
        fy_parser_event_free(parser, event);
        if (r == 0 && y->json.failed) r = too_large(y);
    }
    if (r == 0 && fy_parser_get_stream_error(parser)) r = fail_collected(diag);
    if (r == -ENOMEM) diag_set(r, "YAML that needs too much memory");
    return r;
}

static int text_read(Yaml *y, Str text)
{
    struct fy_diag *diag = diag_collector();
    struct fy_parse_cfg cfg = { .flags = FYPCF_QUIET | FYPCF_COLLECT_DIAG | FYPCF_JSON_NONE |
                                         FYPCF_DEFAULT_VERSION_1_2,
                                .diag = diag };
    struct fy_parser *parser = diag ? fy_parser_create(&cfg) : NULL;
    int r = -ENOMEM;
    if (parser && fy_parser_set_string(parser, text.ptr, text.len) == 0)
        r = events_read(y, parser, diag);
    fy_parser_destroy(parser);
    fy_diag_destroy(diag);
    return r;
}

/* libfyaml takes time in the square of the number of its directives, and we have no use for one. */
static int directives_refuse(Str text)
{
    bool more = text.len > 0;
    for (size_t line_no = 1; more; line_no++) {
        Str line;
        text = str_split(text, '\n', &line, &more);
        if (line_no == 1 && str_starts_with(line, STR("\xef\xbb\xbf"))) line = str_skip(line, 3);
        if (line.len > 0 && line.ptr[0] == '%')
            return fail_at(line_no, 1, "a line that begins with %: directives are not supported");
    }
    return 0;
}

/* The line and column of what begins at or before offset of the JSON text. */
static int fail_json(const Yaml *y, const JsonError *error)
{
    uint32_t low = 0, high = marks_n(&y->marks);
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (mark_at(&y->marks, middle)->json_offset <= error->offset) low = middle;
        else high = middle;
    }
    const Mark *mark = mark_at(&y->marks, low);
    return fail_at(mark->line, mark->column, error->message);
}

static int marks_keep(const Yaml *y, YamlMarks **ret)
{
    YamlMarks *kept = arena_alloc(y->arena, sizeof *kept + y->marks.len);
    if (!kept) return diag_set(-ENOMEM, "YAML that needs too much memory");
    kept->n = marks_n(&y->marks);
    memcpy(kept->marks, y->marks.ptr, y->marks.len);
    *ret = kept;
    return 0;
}

static int tree_read(Yaml *y, Str text, const Json **ret, YamlMarks **ret_marks)
{
    JsonError error = { .message = NULL };
    YamlMarks *marks = NULL;
    const Json *json;
    int r = text_read(y, text);
    if (r < 0) return r;
    if (marks_n(&y->marks) == 0) { /* no document at all, only space and comments */
        r = mark_add(y, NO_MARK, STR_NULL, NULL);
        if (r < 0) return diag_set(r, "YAML that needs too much memory");
        buf_add(&y->json, STR("null"));
    }
    assert(y->depth == 0);
    r = json_parse(y->arena, buf_str(&y->json), NULL, &json, &error);
    if (r < 0) return error.message ? fail_json(y, &error) : r;
    if (ret_marks) r = marks_keep(y, &marks);
    if (r < 0) return r;
    if (ret_marks) *ret_marks = marks;
    *ret = json;
    return 0;
}

int yaml_parse(Arena *arena, Str text, const Json **ret, YamlMarks **ret_marks)
{
    if (text.len > YAML_BYTES_MAX) return diag_set(-EFBIG, "YAML over %zu bytes", YAML_BYTES_MAX);
    if (text.len > 0 && !str_is_utf8(text))
        return diag_set(-EINVAL, "not UTF-8 text without control characters");
    int r = directives_refuse(text);
    if (r < 0) return r;
    Yaml *y = ARENA_NEW(arena, Yaml);
    if (!y) return diag_set(-ENOMEM, "YAML that needs too much memory");
    y->arena = arena;
    buf_init(&y->json, YAML_JSON_BYTES_MAX);
    buf_init(&y->text, 2 * YAML_BYTES_MAX); /* two characters, \L, stand for three bytes at most */
    buf_init(&y->marks, (YAML_NODES_MAX + 1) * sizeof(Mark));
    r = tree_read(y, text.len > 0 ? text : STR("\n"), ret, ret_marks);
    buf_deinit(&y->marks);
    buf_deinit(&y->text);
    buf_deinit(&y->json);
    return r;
}

/* --- looking up ------------------------------------------------------------------------------- */

/* Whether token, a part of a JSON pointer, stands for key (RFC 6901 section 4: ~1 is /, ~0 is ~).
 */
static bool token_is_key(Str token, Str key)
{
    size_t k = 0;
    for (size_t i = 0; i < token.len; i++, k++) {
        char c = token.ptr[i];
        if (c == '~' && i + 1 < token.len) c = token.ptr[++i] == '1' ? '/' : '~';
        if (k >= key.len || key.ptr[k] != c) return false;
    }
    return k == key.len;
}

static uint32_t child_find(const YamlMarks *marks, const Mark *parent, Str token)
{
    uint64_t ordinal = 0;
    if (!parent->is_object && str_to_u64(token, &ordinal) < 0) return NO_MARK;
    for (uint32_t i = parent->first_child; i != NO_MARK; i = marks->marks[i].next) {
        const Mark *child = &marks->marks[i];
        if (parent->is_object ? token_is_key(token, child->key) : child->ordinal == ordinal)
            return i;
    }
    return NO_MARK;
}

bool yaml_mark(const YamlMarks *marks, Str json_pointer, size_t *ret_line, size_t *ret_column)
{
    uint32_t at = 0;
    bool found = json_pointer.len == 0 || json_pointer.ptr[0] == '/';
    Str rest = str_skip(json_pointer, 1), token;
    bool more = found && json_pointer.len > 0;
    assert(marks->n > 0);
    while (more) {
        rest = str_split(rest, '/', &token, &more);
        uint32_t child = child_find(marks, &marks->marks[at], token);
        found = child != NO_MARK;
        if (!found) break;
        at = child;
    }
    *ret_line = marks->marks[at].line;
    *ret_column = marks->marks[at].column;
    return found;
}
