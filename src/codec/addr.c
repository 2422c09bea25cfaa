#include "codec/addr.h"

#include <stdio.h>

Addr addr_v4(const uint8_t bytes[4])
{
    Addr addr = { .bits = 32 };
    memcpy(addr.bytes, bytes, 4);
    return addr;
}

Addr addr_v6(const uint8_t bytes[16])
{
    Addr addr = { .bits = 128 };
    memcpy(addr.bytes, bytes, 16);
    return addr;
}

/* --- text ------------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* A decimal number without leading zeros, at most max. */
static int decimal_from_text(Str text, unsigned max, unsigned *ret)
{
    unsigned value = 0;
    if (text.len == 0 || text.len > 3) return -EINVAL;
    if (text.len > 1 && text.ptr[0] == '0') return -EINVAL;
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9') return -EINVAL;
        value = value * 10 + (unsigned)(text.ptr[i] - '0');
    }
    if (value > max) return -EINVAL;
    *ret = value;
    return 0;
}

static int quad_from_text(Str text, uint8_t ret[4])
{
    for (int i = 0; i < 4; i++) {
        Str part;
        bool more;
        unsigned value;
        text = str_split(text, '.', &part, &more);
        if (more != (i < 3) || decimal_from_text(part, 255, &value) < 0) return -EINVAL;
        ret[i] = (uint8_t)value;
    }
    return 0;
}

/* The groups of one side of "::" (or of the whole), as bytes. An IPv4 tail counts as two groups and
 * is accepted where tail_ok. Returns the number of bytes or -EINVAL. */
static int groups_from_text(Str text, bool tail_ok, uint8_t out[16])
{
    size_t n = 0;
    bool more = text.len > 0;
    while (more) {
        Str part;
        text = str_split(text, ':', &part, &more);
        if (tail_ok && !more && str_find_char(part, '.') >= 0) {
            if (n > 12 || quad_from_text(part, out + n) < 0) return -EINVAL;
            return (int)n + 4;
        }
        if (n > 14 || part.len == 0 || part.len > 4) return -EINVAL;
        unsigned value = 0;
        for (size_t i = 0; i < part.len; i++) {
            int digit = hex_digit(part.ptr[i]);
            if (digit < 0) return -EINVAL;
            value = value << 4 | (unsigned)digit;
        }
        out[n++] = (uint8_t)(value >> 8);
        out[n++] = (uint8_t)(value & 0xff);
    }
    return (int)n;
}

static int v6_from_text(Str text, uint8_t ret[16])
{
    ptrdiff_t gap = str_find(text, STR("::"));
    uint8_t front[16] = { 0 }, back[16] = { 0 };
    if (gap < 0) {
        if (groups_from_text(text, true, front) != 16) return -EINVAL;
        memcpy(ret, front, 16);
        return 0;
    }
    int front_n = groups_from_text(str_sub(text, 0, (size_t)gap), false, front);
    int back_n = groups_from_text(str_skip(text, (size_t)gap + 2), true, back);
    if (front_n < 0 || back_n < 0 || front_n + back_n > 14) return -EINVAL;
    memset(ret, 0, 16);
    memcpy(ret, front, (size_t)front_n);
    memcpy(ret + 16 - back_n, back, (size_t)back_n);
    return 0;
}

int addr_from_text(Str text, Addr *ret)
{
    uint8_t bytes[16];
    if (str_find_char(text, ':') >= 0) {
        if (v6_from_text(text, bytes) < 0) return -EINVAL;
        *ret = addr_v6(bytes);
        return 0;
    }
    if (quad_from_text(text, bytes) < 0) return -EINVAL;
    *ret = addr_v4(bytes);
    return 0;
}

static unsigned group_at(const Addr *addr, int i)
{
    return (unsigned)addr->bytes[2 * i] << 8 | addr->bytes[2 * i + 1];
}

/* The first of the longest runs of zero groups; RFC 5952 section 4.2 wants at least two. */
static void zero_run_find(const Addr *addr, int *ret_at, int *ret_n)
{
    *ret_at = -1;
    *ret_n = 1;
    for (int i = 0; i < 8; i++) {
        int n = 0;
        while (i + n < 8 && group_at(addr, i + n) == 0) n++;
        if (n > *ret_n) {
            *ret_at = i;
            *ret_n = n;
        }
    }
}

Str addr_text(Addr addr, char out[ADDR_TEXT_MAX])
{
    assert(addr.bits == 32 || addr.bits == 128);
    if (addr.bits == 32) {
        int n = snprintf(out, ADDR_TEXT_MAX, "%u.%u.%u.%u", addr.bytes[0], addr.bytes[1],
                         addr.bytes[2], addr.bytes[3]);
        return str_make(out, (size_t)n);
    }
    int gap, gap_n;
    size_t len = 0;
    zero_run_find(&addr, &gap, &gap_n);
    for (int i = 0; i < 8;) {
        if (i == gap) {
            len += (size_t)snprintf(out + len, ADDR_TEXT_MAX - len, "::");
            i += gap_n;
            continue;
        }
        bool colon = i > 0 && i != gap + gap_n;
        if (gap < 0) colon = i > 0;
        len += (size_t)snprintf(out + len, ADDR_TEXT_MAX - len, "%s%x", colon ? ":" : "",
                                group_at(&addr, i));
        i++;
    }
    return str_make(out, len);
}

bool addr_eq(Addr a, Addr b)
{
    return a.bits == b.bits && memcmp(a.bytes, b.bytes, sizeof a.bytes) == 0;
}

/* --- ranges ----------------------------------------------------------------------------------- */

static bool prefix_eq(const uint8_t *a, const uint8_t *b, unsigned bits)
{
    unsigned whole = bits / 8, rest = bits % 8;
    if (memcmp(a, b, whole) != 0) return false;
    if (rest == 0) return true;
    uint8_t mask = (uint8_t)(0xff << (8 - rest));
    return (a[whole] & mask) == (b[whole] & mask);
}

static bool clear_behind(const Addr *addr, unsigned prefix)
{
    for (unsigned bit = prefix; bit < addr->bits; bit++)
        if (addr->bytes[bit / 8] & (0x80u >> (bit % 8))) return false;
    return true;
}

int addr_cidr_from_text(Str text, AddrCidr *ret)
{
    Str head;
    bool given;
    Addr addr;
    Str tail = str_split(text, '/', &head, &given);
    if (addr_from_text(head, &addr) < 0) return -EINVAL;
    unsigned prefix = addr.bits;
    if (given && decimal_from_text(tail, addr.bits, &prefix) < 0) return -EINVAL;
    if (!clear_behind(&addr, prefix)) return -EINVAL;
    *ret = (AddrCidr){ .addr = addr, .prefix = (uint8_t)prefix };
    return 0;
}

bool addr_in_cidr(Addr addr, AddrCidr cidr)
{
    assert(cidr.prefix <= cidr.addr.bits);
    return addr.bits == cidr.addr.bits && prefix_eq(addr.bytes, cidr.addr.bytes, cidr.prefix);
}

/* --- classes ---------------------------------------------------------------------------------- */

typedef struct {
    uint8_t prefix;
    uint8_t class;
    uint8_t bytes[16];
} AddrRule;

/* Sources: the IANA special-purpose address registries (RFC 6890), and the clouds' documentation
 * for the metadata services. Rules for one family stand in one table; the first match wins. */

static const AddrRule metadata_v4[] = {
    { 16, ADDR_METADATA, { 169, 254 } },           /* link-local: AWS, GCP, Azure, and all others */
    { 32, ADDR_METADATA, { 100, 100, 100, 200 } }, /* Alibaba */
    { 32, ADDR_METADATA, { 168, 63, 129, 16 } },   /* Azure's platform address */
    { 32, ADDR_METADATA, { 192, 0, 0, 192 } },     /* Oracle Classic */
};

static const AddrRule deny_v4[] = {
    { 8, ADDR_RESERVED, { 0 } },
    { 8, ADDR_PRIVATE, { 10 } },
    { 10, ADDR_SHARED, { 100, 64 } },
    { 8, ADDR_LOOPBACK, { 127 } },
    { 12, ADDR_PRIVATE, { 172, 16 } },
    { 24, ADDR_RESERVED, { 192, 0, 0 } },
    { 24, ADDR_RESERVED, { 192, 0, 2 } },
    { 24, ADDR_RESERVED, { 192, 88, 99 } },
    { 16, ADDR_PRIVATE, { 192, 168 } },
    { 15, ADDR_RESERVED, { 198, 18 } },
    { 24, ADDR_RESERVED, { 198, 51, 100 } },
    { 24, ADDR_RESERVED, { 203, 0, 113 } },
    { 4, ADDR_MULTICAST, { 224 } },
    { 4, ADDR_RESERVED, { 240 } },
};

static const AddrRule metadata_v6[] = {
    { 128, ADDR_METADATA, { 0xfd, 0x00, 0x0e, 0xc2, [14] = 0x02, [15] = 0x54 } }, /* AWS */
    { 128, ADDR_METADATA, { 0xfd, 0x20, 0x00, 0xce, [14] = 0x02, [15] = 0x54 } }, /* GCP */
};

/* :: and ::1 lie in the IPv4-compatible range but carry nothing: the first rules let them go on. */
static const AddrRule embedded_v6[] = {
    { 128, ADDR_PUBLIC, { 0 } },
    { 128, ADDR_PUBLIC, { [15] = 1 } },
    { 96, ADDR_EMBEDDED_V4, { 0 } },                                  /* IPv4-compatible */
    { 96, ADDR_EMBEDDED_V4, { [10] = 0xff, [11] = 0xff } },           /* mapped */
    { 96, ADDR_EMBEDDED_V4, { [8] = 0xff, [9] = 0xff } },             /* translated, RFC 2765 */
    { 96, ADDR_EMBEDDED_V4, { 0x00, 0x64, 0xff, 0x9b } },             /* NAT64, RFC 6052 */
    { 48, ADDR_EMBEDDED_V4, { 0x00, 0x64, 0xff, 0x9b, 0x00, 0x01 } }, /* NAT64, RFC 8215 */
    { 32, ADDR_EMBEDDED_V4, { 0x20, 0x01, 0x00, 0x00 } },             /* Teredo */
    { 16, ADDR_EMBEDDED_V4, { 0x20, 0x02 } },                         /* 6to4 */
};

static const AddrRule deny_v6[] = {
    { 128, ADDR_LOOPBACK, { [15] = 1 } },
    { 23, ADDR_RESERVED, { 0x20, 0x01 } },             /* protocol assignments */
    { 32, ADDR_RESERVED, { 0x20, 0x01, 0x0d, 0xb8 } }, /* documentation */
    { 20, ADDR_RESERVED, { 0x3f, 0xff } },             /* documentation */
    { 3, ADDR_PUBLIC, { 0x20 } },                      /* global unicast */
    { 7, ADDR_PRIVATE, { 0xfc } },                     /* unique local */
    { 10, ADDR_LINK_LOCAL, { 0xfe, 0x80 } },
    { 8, ADDR_MULTICAST, { 0xff } },
    { 0, ADDR_RESERVED, { 0 } }, /* all else */
};

static AddrClass rules_class(const AddrRule *rules, size_t rules_n, const Addr *addr)
{
    for (size_t i = 0; i < rules_n; i++)
        if (prefix_eq(addr->bytes, rules[i].bytes, rules[i].prefix))
            return (AddrClass)rules[i].class;
    return ADDR_PUBLIC;
}

/* ISATAP (RFC 5214 section 6.1) marks the interface id, under any prefix. */
static bool is_isatap(const Addr *addr)
{
    const uint8_t *id = addr->bytes + 8;
    return (id[0] & 0xfd) == 0 && id[1] == 0 && id[2] == 0x5e && id[3] == 0xfe;
}

/* What no exception can lift, or ADDR_PUBLIC. */
static AddrClass denied_always(const Addr *addr)
{
    if (addr->bits == 32) return rules_class(metadata_v4, ARRAY_N(metadata_v4), addr);
    if (is_isatap(addr)) return ADDR_EMBEDDED_V4;
    AddrClass class = rules_class(metadata_v6, ARRAY_N(metadata_v6), addr);
    if (class != ADDR_PUBLIC) return class;
    return rules_class(embedded_v6, ARRAY_N(embedded_v6), addr);
}

AddrClass addr_class(Addr addr, const AddrCidr *allow, size_t allow_n)
{
    assert(addr.bits == 32 || addr.bits == 128);
    assert(allow || allow_n == 0);
    AddrClass class = denied_always(&addr);
    if (class != ADDR_PUBLIC) return class;
    for (size_t i = 0; i < allow_n; i++)
        if (addr_in_cidr(addr, allow[i])) return ADDR_ALLOWED;
    if (addr.bits == 32) return rules_class(deny_v4, ARRAY_N(deny_v4), &addr);
    return rules_class(deny_v6, ARRAY_N(deny_v6), &addr);
}

const char *addr_class_text(AddrClass class)
{
    static const char *const text[ADDR_CLASS_N_] = {
        [ADDR_PUBLIC] = "a public address",
        [ADDR_ALLOWED] = "an allowed address",
        [ADDR_METADATA] = "a metadata or link-local address",
        [ADDR_EMBEDDED_V4] = "an IPv6 address that carries an IPv4 address",
        [ADDR_LOOPBACK] = "a loopback address",
        [ADDR_PRIVATE] = "a private address",
        [ADDR_SHARED] = "a shared (carrier-grade NAT) address",
        [ADDR_LINK_LOCAL] = "a link-local address",
        [ADDR_MULTICAST] = "a multicast address",
        [ADDR_RESERVED] = "a reserved address",
    };
    assert(class < ADDR_CLASS_N_);
    return text[class];
}
