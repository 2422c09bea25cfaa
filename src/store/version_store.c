#include "store/version_store.h"

#include "base/diag.h"
#include "store/row.h"

int version_insert(Db *db, const Version *v)
{
    assert(v->id.len == VERSION_ID_LEN && v->agent.len > 0);
    RowIn in = row_in(db, "INSERT INTO version (id, agent, components, manifest, artifact,"
                          " description, git_commit, created_at_ms)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
    in_text(&in, v->id);
    in_text(&in, v->agent);
    in_text(&in, v->components);
    in_text(&in, v->manifest);
    in_text_or_null(&in, v->artifact);
    in_text_or_null(&in, v->description);
    in_text_or_null(&in, v->git_commit);
    in_i64(&in, v->created_at_ms);
    int r = db_run(in.stmt, NULL);
    return r == DB_E_CONFLICT ? VERSION_E_EXISTS : r;
}

static void version_read(RowOut *out, void *ret)
{
    Version *v = ret;
    v->seq = out_i64(out);
    v->id = out_text(out);
    v->agent = out_text(out);
    v->artifact = out_text(out);
    v->description = out_text(out);
    v->git_commit = out_text(out);
    v->created_at_ms = out_i64(out);
    v->components = out_text(out);
    v->manifest = out_text(out);
}

/* The ids that begin with hex digits are those from prefix up to prefix + 'g', the character after
 * the last digit. A whole id finds itself. */
static int version_find(Db *db, Str prefix, int64_t *ret_seq)
{
    char end[VERSION_ID_LEN + 2];
    if (prefix.len < VERSION_PREFIX_LEN_MIN || prefix.len > VERSION_ID_LEN) return -ENOENT;
    str_copy(end, sizeof end, prefix);
    end[prefix.len] = 'g';
    RowIn in = row_in(db, "SELECT seq FROM version WHERE id >= ?1 AND id < ?2 LIMIT 2");
    in_text(&in, prefix);
    in_text(&in, str_make(end, prefix.len + 1));
    int r = row_first(in.stmt);
    if (r != 0) return r;
    int64_t seq = db_i64(in.stmt, 0);
    r = db_step(in.stmt);
    if (r < 0) return r;
    db_reset(in.stmt);
    if (r == DB_E_ROW)
        return diag_set(VERSION_E_AMBIGUOUS, "%.*s names more than one version", STR_ARG(prefix));
    *ret_seq = seq;
    return 0;
}

int version_any(Db *db, Str prefix)
{
    int64_t seq;
    int r = version_find(db, prefix, &seq);
    return r == VERSION_E_AMBIGUOUS ? 0 : r;
}

int version_get(Db *db, Str id_or_prefix, Arena *arena, Version *ret)
{
    int64_t seq = 0;
    int r = version_find(db, id_or_prefix, &seq);
    if (r != 0) return r;
    DbStmt *s = db_stmt(db, "SELECT seq, id, agent, artifact, description, git_commit,"
                            " created_at_ms, components, manifest FROM version WHERE seq = ?1");
    db_bind_i64(s, 1, seq);
    r = row_first(s);
    if (r != 0) return r;
    RowOut out = row_out(s, arena);
    Version v;
    version_read(&out, &v);
    r = row_out_end(&out);
    if (r != 0) return r;
    db_reset(s);
    *ret = v;
    return 0;
}

int version_check(Db *db, Str id, Str agent)
{
    RowIn in = row_in(db, "SELECT 1 FROM version WHERE id = ?1 AND agent = ?2");
    in_text(&in, id);
    in_text(&in, agent);
    int r = row_first(in.stmt);
    db_reset(in.stmt);
    return r;
}

#define VERSION_LIST_SELECT                                     \
    "SELECT seq, id, agent, artifact, description, git_commit," \
    " created_at_ms, NULL, NULL FROM version"

int version_list(Db *db, Str agent, Str cursor, size_t limit, Arena *arena, VersionPage *ret)
{
    int64_t below = 0;
    int r = page_cursor_parse(cursor, &below);
    if (r != 0) return r;
    size_t rows = page_rows(limit);
    RowList list = { .arena = arena, .max = rows + 1, .size = sizeof(Version) };
    RowIn in = str_empty(agent)
                   ? row_in(db, VERSION_LIST_SELECT " WHERE seq < ?1 ORDER BY seq DESC")
                   : row_in(db,
                            VERSION_LIST_SELECT " WHERE seq < ?1 AND agent = ?2 ORDER BY seq DESC");
    in_i64(&in, below);
    if (!str_empty(agent)) in_text(&in, agent);
    r = row_list_fill(&list, in.stmt, version_read);
    if (r != 0) return r;
    *ret = (VersionPage){ .versions = list.rows, .n = MIN(list.n, rows) };
    if (list.n > rows) ret->next = page_cursor_make(ret->versions[rows - 1].seq);
    return 0;
}

int version_count(Db *db, Str agent, int64_t *ret)
{
    RowIn in = row_in(db, "SELECT count(*) FROM version WHERE agent = ?1");
    in_text(&in, agent);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = db_i64(in.stmt, 0);
    db_reset(in.stmt);
    return 0;
}
