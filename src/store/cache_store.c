#include "store/cache_store.h"

#include "store/row.h"

int cache_revision(Db *db, int64_t *ret)
{
    DbStmt *s = db_stmt(db, "SELECT value FROM counter WHERE name = 'cache'");
    int r = row_first(s);
    if (r != 0) return r;
    *ret = db_i64(s, 0);
    db_reset(s);
    return 0;
}

static int revision_next(Db *db, int64_t *ret)
{
    int r = row_change(db_stmt(db, "UPDATE counter SET value = value + 1 WHERE name = 'cache'"));
    return r == 0 ? cache_revision(db, ret) : r;
}

static int forget_old(Db *db, int64_t revision)
{
    RowIn in = row_in(db, "DELETE FROM cache_purge WHERE revision <= ?1");
    in_i64(&in, revision - CACHE_PURGES_KEPT);
    return row_run(in.stmt);
}

int cache_purge_add(Db *db, const CachePurge *purge, int64_t now_ms, int64_t *ret_revision)
{
    int64_t revision;
    int r = revision_next(db, &revision);
    if (r != 0) return r;
    RowIn in = row_in(db, "INSERT INTO cache_purge (revision, by_tenant, tenant, by_agent, agent,"
                          " at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)");
    in_i64(&in, revision);
    in_i64(&in, purge->by_tenant);
    in_text_or_null(&in, purge->tenant);
    in_i64(&in, purge->by_agent);
    in_text_or_null(&in, purge->agent);
    in_i64(&in, now_ms);
    r = row_run(in.stmt);
    if (r == 0) r = forget_old(db, revision);
    if (r == 0) *ret_revision = revision;
    return r;
}

static void purge_read(RowOut *out, void *ret)
{
    CachePurge *purge = ret;
    purge->by_tenant = out_i64(out) != 0;
    purge->tenant = out_text(out);
    purge->by_agent = out_i64(out) != 0;
    purge->agent = out_text(out);
}

int cache_purges_after(Db *db, int64_t seen, Arena *arena, CachePurge **ret, size_t *ret_n)
{
    int64_t revision;
    RowList list = { .arena = arena, .max = CACHE_PURGES_KEPT, .size = sizeof(CachePurge) };
    int r = cache_revision(db, &revision);
    if (r != 0) return r;
    RowIn in = row_in(db, "SELECT by_tenant, tenant, by_agent, agent FROM cache_purge"
                          " WHERE revision > ?1 ORDER BY revision");
    in_i64(&in, seen);
    r = row_list_fill(&list, in.stmt, purge_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    if (revision >= seen && revision - seen == (int64_t)list.n) return 0;
    /* too many at once, or of another database */
    *ret = ARENA_NEW(arena, CachePurge);
    *ret_n = 1;
    return *ret ? 0 : -ENOMEM;
}
