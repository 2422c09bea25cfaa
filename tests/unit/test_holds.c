#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "sys/clock.h"
#include "tests/unit/temp_dir.h"
#include "worker/holds.h"
#include "worker/wire.h"

static Uuid id_of(uint8_t n)
{
    return (Uuid){ { 1, [15] = n } };
}

static GatewayCall call_of(const char *id, int64_t nusd)
{
    GatewayCall call = { .attempt = 2,
                         .provider = STR("local"),
                         .model = STR("gpt-4o-mini-2024-07-18"),
                         .hold = { .tokens = nusd / 10, .nusd = nusd },
                         .charged = { .tokens = nusd / 100, .nusd = nusd / 10 },
                         .started_real_ms = 1700000000000 };
    str_copy(call.id, sizeof call.id, str_of(id));
    return call;
}

static void open_after(const TempDir *dir, const char *boot, Holds **ret)
{
    char path[512];
    snprintf(path, sizeof path, "%s/holds", dir->path);
    assert_int_equal(holds_open(path, boot, ret), 0);
}

static void open_in(const TempDir *dir, Holds **ret)
{
    open_after(dir, "6ad5b0ff-55a7-4d1c-9b5e-8a1d5ea5a3c1", ret);
}

static const TaskRef task = { .id = { { 7 } }, .fence = 9 };
static const TaskRef account = { .id = { { 8 } }, .fence = TASK_FENCE_ACCOUNT };

/* A process that enters calls and is killed. */
static void child(const TempDir *dir)
{
    Holds *holds;
    open_in(dir, &holds);
    holds_begin(holds, id_of(1));
    GatewayCall a = call_of("a", 1000), b = call_of("b", 2000), c = call_of("c", 3000);
    assert_int_equal(holds_put(holds, &a, task), 0);
    assert_int_equal(holds_put(holds, &b, account), 0);
    assert_int_equal(holds_put(holds, &c, task), 0);
    holds_charge(holds, &b);
    holds_drop(holds, &c);
    kill(getpid(), SIGKILL);
}

static void test_outlives_a_kill(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    TempDir dir;
    Holds *holds;
    BudgetHold *list;
    size_t n;
    Uuid dead;
    int status;
    arena_init(&arena, 16 << 20);
    temp_dir_init(&dir);
    pid_t pid = fork();
    if (pid == 0) child(&dir);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));

    open_in(&dir, &holds);
    assert_false(holds_dead(holds, &dead)); /* of nobody else, before there is a new one */
    holds_begin(holds, id_of(2));
    assert_true(holds_dead(holds, &dead));
    assert_true(uuid_eq(dead, id_of(1)));
    GatewayCall d = call_of("d", 4000);
    assert_int_equal(holds_put(holds, &d, task), 0);
    assert_int_equal(holds_of(holds, dead, &arena, &list, &n), 0);
    assert_int_equal(n, 2);
    size_t a = str_eq(list[0].call_id, STR("a")) ? 0 : 1;
    assert_true(str_eq(list[a].call_id, STR("a")));
    assert_int_equal(list[a].charge.nusd, 1000); /* in flight: all that was held */
    assert_int_equal(list[1 - a].charge.nusd, 200);
    assert_int_equal(list[a].task.fence, 9);
    assert_int_equal(list[1 - a].task.fence, TASK_FENCE_ACCOUNT);
    assert_true(uuid_eq(list[1 - a].task.id, account.id));
    assert_int_equal(list[a].attempt, 2);
    assert_true(str_eq(list[a].model, STR("gpt-4o-mini-2024-07-18")));

    /* over the wire */
    CLEANUP(buf_deinit) Buf text;
    const Json *v;
    BudgetHold read;
    buf_init(&text, 4096);
    JsonOut out = json_out(&text);
    wire_hold_write(&out, &list[a]);
    assert_int_equal(json_parse(&arena, buf_str(&text), NULL, &v, NULL), 0);
    assert_int_equal(wire_hold_read(v, &read), 0);
    assert_true(str_eq(read.call_id, list[a].call_id));
    assert_int_equal(read.charge.tokens, 100);
    assert_int_equal(read.at_ms, 1700000000000);

    holds_forget(holds, dead);
    assert_false(holds_dead(holds, &dead));
    assert_int_equal(holds_of(holds, id_of(2), &arena, &list, &n), 0);
    assert_int_equal(n, 1);
    holds_close(holds);
    temp_dir_deinit(&dir);
}

/* What the file says after the machine died may be of any time before: it must prove nothing, or
 * calls in flight would be given back unpaid. */
static void test_the_machine_died(void **state)
{
    (void)state;
    char real[BOOT_ID_SIZE], again[BOOT_ID_SIZE];
    boot_id_read(real);
    boot_id_read(again);
    assert_int_equal(strlen(real), 36); /* Linux tells it, the same while it runs */
    assert_string_equal(real, again);

    static const char *const boots[] = { "c2d1f1f0-0d8f-4f50-8a55-6a2cdd0f8c11", "", "" };
    TempDir dir;
    Holds *holds;
    Uuid dead;
    GatewayCall call = call_of("a", 1000);
    temp_dir_init(&dir);
    open_in(&dir, &holds);
    holds_begin(holds, id_of(1));
    assert_int_equal(holds_put(holds, &call, task), 0);
    holds_close(holds);
    for (uint8_t i = 0; i < ARRAY_N(boots); i++) { /* another boot, and twice an unknown one */
        open_after(&dir, boots[i], &holds);
        holds_begin(holds, id_of(2 + i));
        assert_false(holds_dead(holds, &dead));
        assert_false(holds_any(holds, id_of(1)));
        assert_int_equal(holds_put(holds, &call, task), 0);
        holds_close(holds);
    }
    temp_dir_deinit(&dir);
}

static void test_full_and_broken(void **state)
{
    (void)state;
    TempDir dir;
    Holds *holds;
    Uuid dead;
    char path[512];
    temp_dir_init(&dir);
    open_in(&dir, &holds);
    holds_begin(holds, id_of(1));
    for (int i = 0; i < HOLDS_MAX; i++) {
        char id[16];
        snprintf(id, sizeof id, "c%d", i);
        GatewayCall call = call_of(id, 10);
        assert_int_equal(holds_put(holds, &call, task), 0);
    }
    GatewayCall over = call_of("over", 10), first = call_of("c0", 10);
    assert_int_equal(holds_put(holds, &over, task), -ENOSPC);
    holds_drop(holds, &first);
    assert_int_equal(holds_put(holds, &over, task), 0);
    for (uint8_t i = 2; i < 2 + HOLDS_WORKERS_MAX; i++) holds_begin(holds, id_of(i));
    assert_true(holds_dead(holds, &dead));
    assert_true(uuid_eq(dead, id_of(2))); /* the oldest was forgotten, with its entries */
    assert_int_equal(holds_put(holds, &first, task), 0);
    holds_close(holds);

    snprintf(path, sizeof path, "%s/holds", dir.path);
    FILE *file = fopen(path, "r+e");
    assert_non_null(file);
    assert_int_equal(fwrite("nonsense", 1, 8, file), 8);
    fclose(file);
    open_in(&dir, &holds);
    assert_false(holds_dead(holds, &dead));
    holds_begin(holds, id_of(1));
    assert_false(holds_dead(holds, &dead));
    holds_close(holds);
    temp_dir_deinit(&dir);
}

/* --- the wire --------------------------------------------------------------------------------- */

static const Json *parsed(Arena *arena, const Buf *text)
{
    const Json *v = NULL;
    assert_int_equal(json_parse(arena, buf_str(text), NULL, &v, NULL), 0);
    return v;
}

static void test_wire(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf text;
    arena_init(&arena, 16 << 20);
    buf_init(&text, 1 << 20);
    BudgetNote note = { { BUDGET_USER, BUDGET_DAY, BUDGET_TOKENS, STR("a:b\"") }, 5, 70, 30 };
    BudgetAsk ask = { .asks = true,
                      .owner = { STR("support"), STR(""), STR("a:b\"") },
                      .lane = LANE_LOW,
                      .waited_ms = 12,
                      .need = { { 1, 2 }, { 3, 4 }, { 5, INT64_MAX / 4096 }, { 7, 8 } },
                      .notes = &note,
                      .notes_n = 1 };
    BudgetAsk back;
    int64_t wait_ms;
    JsonOut out = json_out(&text);
    wire_ask_write(&out, &ask, 99);
    assert_int_equal(wire_ask_read(&arena, parsed(&arena, &text), &back, &wait_ms), 0);
    assert_int_equal(wait_ms, 99);
    assert_true(back.asks && back.lane == LANE_LOW && back.waited_ms == 12);
    assert_memory_equal(&back.need, &ask.need, sizeof ask.need);
    assert_int_equal(budget_scope_cmp(&back.notes[0].scope, &note.scope), 0);
    assert_int_equal(back.notes[0].granted, 70);

    BudgetTold told = { note.scope, 5, 6, 7, 8, 9, 4, 3, true };
    BudgetAnswer answer = { BUDGET_EXHAUSTED, 0, 1234, 55, &told, 1 }, answer_back;
    buf_clear(&text);
    out = json_out(&text);
    wire_answer_write(&out, &answer);
    assert_int_equal(wire_answer_read(&arena, parsed(&arena, &text), &answer_back), 0);
    assert_int_equal(answer_back.verdict, BUDGET_EXHAUSTED);
    assert_int_equal(answer_back.epoch, 1234);
    assert_int_equal(answer_back.told_n, 1);
    assert_int_equal(answer_back.told[0].granted, 9);
    assert_int_equal(answer_back.told[0].returned, 4);
    assert_int_equal(answer_back.told[0].spent, 3);
    assert_true(answer_back.told[0].applies);
}

/* What a worker must not be able to say. */
static void test_wire_refuses(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "{}",
        "{\"lane\":\"low\",\"min\":{\"nusd\":2,\"tokens\":0},\"good\":{\"nusd\":1,\"tokens\":0},"
        "\"want\":{\"nusd\":1,\"tokens\":0},\"more\":{\"nusd\":0,\"tokens\":0},\"slices\":[]}",
        "{\"lane\":\"low\",\"min\":{\"nusd\":-1,\"tokens\":0},\"good\":{\"nusd\":1,\"tokens\":0},"
        "\"want\":{\"nusd\":1,\"tokens\":0},\"more\":{\"nusd\":0,\"tokens\":0},\"slices\":[]}",
        "{\"lane\":\"low\",\"min\":{\"nusd\":1,\"tokens\":0},\"good\":{\"nusd\":1,\"tokens\":0},"
        "\"want\":{\"nusd\":1,\"tokens\":0},\"more\":{\"nusd\":0,\"tokens\":0},"
        "\"slices\":[{\"scope\":\"agent:*:day\",\"startMs\":0,\"granted\":1,\"returned\":0}]}",
        "{\"lane\":\"low\",\"min\":{\"nusd\":1,\"tokens\":0},\"good\":{\"nusd\":1,\"tokens\":0},"
        "\"want\":{\"nusd\":1,\"tokens\":0},\"more\":{\"nusd\":0,\"tokens\":0},"
        "\"slices\":[{\"scope\":\"day\",\"startMs\":0,\"granted\":1,\"returned\":-1}]}",
    };
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        CLEANUP(arena_deinit) Arena arena;
        const Json *v;
        BudgetAsk ask;
        int64_t wait_ms;
        arena_init(&arena, 1 << 20);
        assert_int_equal(json_parse(&arena, str_of(bad[i]), NULL, &v, NULL), 0);
        assert_int_equal(wire_ask_read(&arena, v, &ask, &wait_ms), -EINVAL);
    }
}

int main(void)
{
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outlives_a_kill), cmocka_unit_test(test_the_machine_died),
        cmocka_unit_test(test_full_and_broken), cmocka_unit_test(test_wire),
        cmocka_unit_test(test_wire_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
