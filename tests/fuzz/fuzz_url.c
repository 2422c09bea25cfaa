/* URLs, addresses and their classes: what is accepted has one canonical form that reads back as
 * itself, and agrees with libc's reader of addresses. */
#include <arpa/inet.h>

#include "codec/url.h"
#include "tests/fuzz/fuzz.h"

static void check_class(Addr addr)
{
    const AddrCidr all[] = { { .addr = { .bits = 32 } }, { .addr = { .bits = 128 } } };
    AddrClass class = addr_class(addr, NULL, 0), allowed = addr_class(addr, all, ARRAY_N(all));
    bool always = class == ADDR_METADATA || class == ADDR_EMBEDDED_V4;
    assert(always ? allowed == class : allowed == ADDR_ALLOWED);
}

static void check_addr(Str text)
{
    char copy[80], out[ADDR_TEXT_MAX];
    uint8_t bytes[16] = { 0 };
    Addr addr, again;
    AddrCidr cidr;
    if (addr_cidr_from_text(text, &cidr) == 0) assert(addr_in_cidr(cidr.addr, cidr));
    if (addr_from_text(text, &addr) != 0) return;
    assert(str_copy(copy, sizeof copy, text));
    assert(inet_pton(addr.bits == 32 ? AF_INET : AF_INET6, copy, bytes) == 1);
    assert(memcmp(bytes, addr.bytes, 16) == 0);
    assert(addr_from_text(addr_text(addr, out), &again) == 0 && addr_eq(addr, again));
    check_class(addr);
}

static void check_host(const Url *url)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789-.:[]";
    struct in_addr lax;
    char copy[260];
    for (size_t i = 0; i < url->host.len; i++)
        assert(memchr(allowed, url->host.ptr[i], sizeof allowed - 1));
    assert(str_copy(copy, sizeof copy, url->host));
    /* inet_aton reads every form of IPv4 there is: it must see none that we took for a name. */
    assert(url->host_is_addr || inet_aton(copy, &lax) == 0);
    if (url->host_is_addr) check_class(url->addr);
}

static void check_url(Arena *arena, Str text)
{
    Url url, again;
    if (url_parse(arena, text, &url) != 0) return;
    check_host(&url);
    Str canonical = url_text(arena, &url);
    assert(canonical.ptr);
    if (canonical.len > URL_BYTES_MAX) return;
    assert(url_parse(arena, canonical, &again) == 0);
    assert(str_eq(url_text(arena, &again), canonical));
    assert(url_parse(arena, url_join(arena, canonical, STR("/x?y")), &again) == 0 ||
           canonical.len > URL_BYTES_MAX - 8);
}

static void check_encoding(Arena *arena, Str text)
{
    Buf buf;
    Str back, params[URL_PARAMS_MAX];
    buf_init(&buf, 1 << 24);
    assert(url_encode(&buf, text));
    int r = url_decode(arena, buf_str(&buf), true, &back);
    assert(r == 0 ? str_eq(back, text) : str_find_char(text, '\0') >= 0);
    buf_deinit(&buf);
    if (url_query_find(arena, text, STR("a"), &back) == 0) assert(str_find_char(back, '\0') < 0);
    (void)url_path_match("/a/{b}/{c...}", text, params);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Arena arena;
    Str text = str_make((const char *)data, size);
    arena_init(&arena, 1 << 24);
    check_addr(text);
    check_url(&arena, text);
    check_encoding(&arena, text);
    arena_deinit(&arena);
    return 0;
}
