/* Imported prices and sums of what was spent, as records. SPEND_CALLS=1000000 measures a look back
 * over so many calls. */
#include "tests/unit/sys_harness.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"
#include "logic/price.h"
#include "store/budget_store.h"
#include "store/price_store.h"
#include "store/spend_store.h"
#include "store/store.h"
#include "sys/clock.h"
#include "tests/unit/check.h"
#include "tests/unit/random.h"
#include "tests/unit/temp_dir.h"

typedef struct {
    TempDir dir;
    Store *store;
    Arena arena;
} Fixture;

static int setup(void **state)
{
    Fixture *f = xcalloc(1, sizeof *f);
    temp_dir_init(&f->dir);
    arena_init(&f->arena, 64 << 20);
    *state = f;
    return store_open(&(StoreOptions){ .path = f->dir.path }, &f->store);
}

static int teardown(void **state)
{
    Fixture *f = *state;
    store_close(f->store);
    arena_deinit(&f->arena);
    temp_dir_deinit(&f->dir);
    free(f);
    return 0;
}

static void run(void **state, StoreFn fn)
{
    Fixture *f = *state;
    CHECK_INT(store_call(f->store, fn, f), 0);
    check_none();
}

/* --- prices ----------------------------------------------------------------------------------- */

static void check_entries(Db *db, const char *want)
{
    CLEANUP(buf_deinit) Buf out;
    buf_init(&out, 1 << 20);
    CHECK_INT(price_entries_write(db, &out), 0);
    CHECK_STR(buf_str(&out), str_of(want));
}

static int job_prices(Db *db, void *arg)
{
    (void)arg;
    int64_t revision;
    CHECK_INT(price_revision(db, &revision), 0);
    CHECK_INT(revision, 0);
    check_entries(db, "{}");
    const PriceEntry two[] = { { STR("b"), STR("{\"x\":1e-06}") }, { STR("a"), STR("{}") } };
    CHECK_INT(price_put(db, two, 2, false, 5, &revision), 0);
    CHECK_INT(revision, 1);
    check_entries(db, "{\"a\":{},\"b\":{\"x\":1e-06}}");
    const PriceEntry again = { STR("a"), STR("{\"y\":2}") };
    CHECK_INT(price_put(db, &again, 1, false, 6, &revision), 0);
    check_entries(db, "{\"a\":{\"y\":2},\"b\":{\"x\":1e-06}}");
    CHECK_INT(price_exists(db, STR("b")), 0);
    CHECK_INT(price_put(db, &again, 1, true, 7, &revision), 0);
    CHECK_INT(revision, 3);
    check_entries(db, "{\"a\":{\"y\":2}}");
    CHECK_INT(price_exists(db, STR("b")), -ENOENT);
    return 0;
}

static void test_prices(void **state)
{
    run(state, job_prices);
}

static int job_too_many(Db *db, void *arg)
{
    Fixture *f = arg;
    int64_t revision;
    size_t n = PRICE_ENTRIES_MAX + 1;
    PriceEntry *entries = ARENA_ARRAY(&f->arena, PriceEntry, n);
    for (size_t i = 0; i < n; i++)
        entries[i] = (PriceEntry){ arena_printf(&f->arena, "m-%zu", i), STR("{}") };
    return price_put(db, entries, n, false, 5, &revision);
}

static int job_no_prices(Db *db, void *arg)
{
    (void)arg;
    int64_t revision;
    CHECK_INT(price_revision(db, &revision), 0);
    CHECK_INT(revision, 0);
    check_entries(db, "{}");
    return 0;
}

static void test_too_many_prices(void **state)
{
    Fixture *f = *state;
    assert_int_equal(store_call(f->store, job_too_many, f), PRICE_E_FULL);
    run(state, job_no_prices); /* undone */
}

/* --- spend ------------------------------------------------------------------------------------ */

static void task_add(Db *db, int64_t seq, int64_t nth)
{
    char text[512];
    snprintf(text, sizeof text, "%016" PRIx64, (uint64_t)seq);
    DbStmt *s = db_stmt(db, "INSERT INTO task (seq, id, state, lane, created_at_ms, ready_at_ms,"
                            " agent, version_id, user_id, tenant_id)"
                            " VALUES (?1, ?2, 2, 1, 0, 0, ?3, ?4, ?5, ?6)");
    char agent[16], user[16];
    snprintf(agent, sizeof agent, "agent-%d", (int)(nth % 3));
    snprintf(user, sizeof user, "user-%d", (int)(nth % 7));
    db_bind_i64(s, 1, seq);
    db_bind_blob(s, 2, str_make(text, 16));
    db_bind_text(s, 3, str_of(agent));
    db_bind_text(s, 4, STR("v"));
    db_bind_text_or_null(s, 5, nth % 7 ? str_of(user) : STR_NULL);
    db_bind_null(s, 6);
    CHECK_INT(db_run(s, NULL), 0);
}

#define TASKS 200
#define HOURS 48

/* Cost by agent and user of what began at or after an hour, added up by hand. */
typedef struct {
    int64_t agent[3], user[7], day[3], total, calls;
} Sums;

static void call_add(Db *db, Random *r, Sums *sums, int64_t from_hour)
{
    int64_t seq = random_range(r, 1, TASKS), hour = random_range(r, 0, HOURS - 1);
    Call call = { .at_ms = hour * SPEND_HOUR_MS + random_range(r, 0, SPEND_HOUR_MS - 1),
                  .provider = STR("openai"),
                  .model = random_range(r, 0, 1) ? STR("m-1") : STR("m-2"),
                  .outcome = STR("ok"),
                  .input_tokens = 10,
                  .cost_nusd = random_range(r, 0, 1000) };
    int64_t last = 0;
    CHECK_INT(call_insert(db, seq, &call, &last), 0);
    char agent[16], user[16];
    snprintf(agent, sizeof agent, "agent-%d", (int)(seq % 3));
    snprintf(user, sizeof user, "user-%d", (int)(seq % 7));
    SpendKey key = { .hour_ms = hour * SPEND_HOUR_MS,
                     .agent = str_of(agent),
                     .version_id = STR("v"),
                     .user_id = seq % 7 ? str_of(user) : STR_NULL,
                     .model = call.model,
                     .provider = call.provider };
    Spend sum = { .calls = 1, .input_tokens = 10, .cost_nusd = call.cost_nusd };
    CHECK_INT(spend_add(db, &key, &sum), 0);
    if (hour < from_hour) return;
    sums->agent[seq % 3] += call.cost_nusd;
    sums->user[seq % 7] += call.cost_nusd;
    sums->day[hour / 24] += call.cost_nusd;
    sums->total += call.cost_nusd;
    sums->calls++;
}

static int job_absurd(Db *db, void *arg)
{
    Fixture *f = arg;
    Spend *rows, total;
    size_t n;
    SpendKey key = { .agent = STR("a"), .version_id = STR("v"), .model = STR("m") };
    Spend most = { .calls = 1, .input_tokens = INT64_MAX, .cost_nusd = INT64_MAX - 1 };
    for (int i = 0; i < 3; i++) CHECK_INT(spend_add(db, &key, &most), 0);
    key.provider = STR("p");
    CHECK_INT(spend_add(db, &key, &most), 0);
    CHECK_INT(spend_list(db, SPEND_BY_AGENT, 0, 10, &f->arena, &rows, &n, &total), 0);
    CHECK_INT(n, 1);
    CHECK_INT(rows[0].cost_nusd, INT64_MAX);
    CHECK_INT(total.cost_nusd, INT64_MAX);
    CHECK_INT(total.input_tokens, INT64_MAX);
    CHECK_INT(total.calls, 4);
    return 0;
}

static void test_absurd_spend(void **state)
{
    run(state, job_absurd);
}

static int64_t cost_of(const Spend *rows, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        if (str_eq(rows[i].key, str_of(key))) return rows[i].cost_nusd;
    return 0;
}

static int64_t calls_wanted(void)
{
    const char *text = getenv("SPEND_CALLS");
    return text ? strtoll(text, NULL, 10) : 5000;
}

static void check_sums(Db *db, Arena *arena, const Sums *sums, int64_t from_ms)
{
    Spend *rows, total;
    size_t n;
    char key[16];
    int64_t began_us = clock_mono_us();
    CHECK_INT(spend_list(db, SPEND_BY_AGENT, from_ms, 100, arena, &rows, &n, &total), 0);
    if (getenv("SPEND_CALLS")) print_message("%" PRId64 " us\n", clock_mono_us() - began_us);
    CHECK_INT(total.cost_nusd, sums->total);
    CHECK_INT(total.calls, sums->calls);
    CHECK_INT(total.input_tokens, 10 * sums->calls);
    CHECK_INT(n, 3);
    for (int i = 0; i < 3; i++) {
        snprintf(key, sizeof key, "agent-%d", i);
        CHECK_INT(cost_of(rows, n, key), sums->agent[i]);
        if (i) CHECK(rows[i - 1].cost_nusd >= rows[i].cost_nusd);
    }
    CHECK_INT(spend_list(db, SPEND_BY_USER, from_ms, 100, arena, &rows, &n, &total), 0);
    for (int i = 0; i < 7; i++) {
        if (i) snprintf(key, sizeof key, "user-%d", i);
        else key[0] = '\0';
        CHECK_INT(cost_of(rows, n, key), sums->user[i]);
    }
    CHECK_INT(spend_list(db, SPEND_BY_DAY, from_ms, 100, arena, &rows, &n, &total), 0);
    CHECK_STR(rows[0].key, STR("1970-01-02"));
    CHECK_INT(cost_of(rows, n, "1970-01-02"), sums->day[1]);
    CHECK_INT(cost_of(rows, n, "1970-01-01"), sums->day[0]);
    CHECK_INT(spend_list(db, SPEND_BY_MODEL, from_ms, 1, arena, &rows, &n, &total), 0);
    CHECK_INT(n, 1);
    CHECK_INT(total.cost_nusd, sums->total);
    CHECK_INT(spend_list(db, SPEND_BY_TENANT, from_ms, 9, arena, &rows, &n, &total), 0);
    CHECK_INT(n, 1);
    CHECK_STR(rows[0].key, STR(""));
    CHECK_INT(spend_list(db, SPEND_BY_PROVIDER, HOURS * SPEND_HOUR_MS, 9, arena, &rows, &n, &total),
              0);
    CHECK_INT(n + (size_t)total.calls, 0);
}

static int job_spend(Db *db, void *arg)
{
    Fixture *f = arg;
    Random r = { 1 };
    Sums sums = { .total = 0 };
    for (int64_t i = 1; i <= TASKS; i++) task_add(db, i, i);
    for (int64_t i = calls_wanted(); i > 0; i--) call_add(db, &r, &sums, 7);
    check_sums(db, &f->arena, &sums, 7 * SPEND_HOUR_MS + 1234567); /* whole hours */
    return 0;
}

static void test_spend(void **state)
{
    run(state, job_spend);
}

/* --- what a budget that is new finds ---------------------------------------------------------- */

#define HALF_PAST (SPEND_HOUR_MS / 2)

static void user_call_add(Db *db, const char *user, int64_t at_ms, int64_t cost_nusd)
{
    static int64_t last;
    int64_t seq = str_eq(str_of(user), STR("ann")) ? 1 : 2;
    Call call = { .at_ms = at_ms,
                  .provider = STR("p"),
                  .model = STR("m"),
                  .protocol = STR("chat"),
                  .outcome = STR("ok"),
                  .cost_nusd = cost_nusd,
                  .charged_tokens = 2 * cost_nusd };
    SpendKey key = { .hour_ms = at_ms - at_ms % SPEND_HOUR_MS, .user_id = str_of(user) };
    Spend sum = { .calls = 1, .cost_nusd = cost_nusd, .charged_tokens = 2 * cost_nusd };
    CHECK_INT(call_insert(db, seq, &call, &last), 0);
    CHECK_INT(spend_add(db, &key, &sum), 0);
}

static int64_t spent_by(Db *db, Fixture *f, BudgetSpentAsk ask)
{
    BudgetSpent *rows = NULL;
    size_t n = 0;
    ask.max = 10;
    CHECK_INT(budget_spent_since(db, &ask, &f->arena, &rows, &n), 0);
    CHECK(n <= 1);
    return n ? rows[0].spent : 0;
}

/* In zones whose days begin within an hour: what was before in that hour is left out as long as its
 * calls are there, and is in when they are not. */
static int job_half_hours(Db *db, void *arg)
{
    Fixture *f = arg;
    BudgetSpentAsk ann = { BUDGET_USER, BUDGET_USD, HALF_PAST, .key = STR("ann") };
    BudgetSpentAsk tokens = { BUDGET_USER, BUDGET_TOKENS, HALF_PAST, .key = STR("ann") };
    BudgetSpentAsk all = { .kind = BUDGET_ALL, .start_ms = HALF_PAST };
    BudgetSpentAsk whole = { .kind = BUDGET_ALL, .start_ms = SPEND_HOUR_MS };
    CHECK_INT(db_run(db_stmt(db, "UPDATE task SET user_id = iif(seq = 1, 'ann', 'bob')"), NULL), 0);
    CHECK_INT(spent_by(db, f, all), 0);
    user_call_add(db, "ann", HALF_PAST - 1, 1);
    user_call_add(db, "ann", HALF_PAST, 10);
    user_call_add(db, "bob", 5, 100);
    user_call_add(db, "ann", SPEND_HOUR_MS, 1000);
    CHECK_INT(spent_by(db, f, ann), 1010);
    CHECK_INT(spent_by(db, f, tokens), 2020);
    CHECK_INT(spent_by(db, f, all), 1010);
    CHECK_INT(spent_by(db, f, whole), 1000);
    CHECK_INT(db_run(db_stmt(db, "DELETE FROM call"), NULL), 0);
    CHECK_INT(spent_by(db, f, ann), 1011);
    CHECK_INT(spent_by(db, f, tokens), 2022);
    CHECK_INT(spent_by(db, f, all), 1111);
    CHECK_INT(spent_by(db, f, whole), 1000);
    return 0;
}

/* However many there are, read in parts. */
static int job_many_users(Db *db, void *arg)
{
    Fixture *f = arg;
    BudgetSpentAsk ask = { .kind = BUDGET_USER, .max = 3 };
    size_t users = 0, n;
    for (int i = 0; i < 10; i++) {
        SpendKey key = { .user_id = arena_printf(&f->arena, "u%d", i) };
        CHECK_INT(spend_add(db, &key, &(Spend){ .cost_nusd = 1 + i }), 0);
    }
    do {
        BudgetSpent *rows = NULL;
        CHECK_INT(budget_spent_since(db, &ask, &f->arena, &rows, &n), 0);
        for (size_t i = 0; i < n; i++) CHECK_INT(rows[i].spent, (int64_t)++users);
        if (n) ask.after = rows[n - 1].key;
    } while (n == ask.max);
    CHECK_INT(users, 10);
    return 0;
}

static int job_two_tasks(Db *db, void *arg)
{
    (void)arg;
    for (int64_t i = 1; i <= 2; i++) task_add(db, i, i);
    return 0;
}

static void test_found_later(void **state)
{
    run(state, job_two_tasks);
    run(state, job_half_hours);
}

static void test_found_in_parts(void **state)
{
    run(state, job_many_users);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_prices, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_many_prices, setup, teardown),
        cmocka_unit_test_setup_teardown(test_absurd_spend, setup, teardown),
        cmocka_unit_test_setup_teardown(test_spend, setup, teardown),
        cmocka_unit_test_setup_teardown(test_found_later, setup, teardown),
        cmocka_unit_test_setup_teardown(test_found_in_parts, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
