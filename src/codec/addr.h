/* Network addresses and whether outbound calls may go there.
 *
 * Text forms are read strictly: "127.0.0.1" and RFC 4291 IPv6 without brackets or zone, nothing
 * that other readers take for something else (octal, hexadecimal, short forms, leading zeros).
 */
#ifndef GANTRY_CODEC_ADDR_H
#define GANTRY_CODEC_ADDR_H

#include "base/str.h"

typedef struct {
    uint8_t bits;      /* 32 or 128 */
    uint8_t bytes[16]; /* network order; the first 4 for IPv4, the others 0 */
} Addr;

typedef struct {
    Addr addr;      /* bits behind the prefix are 0 */
    uint8_t prefix; /* bits */
} AddrCidr;

#define ADDR_TEXT_MAX 48

/* From network-order bytes, as in a sockaddr. */
Addr addr_v4(const uint8_t bytes[4]);
Addr addr_v6(const uint8_t bytes[16]);

/* Returns 0 or -EINVAL. */
MUST_CHECK int addr_from_text(Str text, Addr *ret);

/* Canonical text (RFC 5952, always hexadecimal groups), NUL-terminated into out. */
Str addr_text(Addr addr, char out[ADDR_TEXT_MAX]);

bool addr_eq(Addr a, Addr b);

/* "10.0.0.0/8", or an address alone (all bits). Returns 0 or -EINVAL, also when bits are set behind
 * the prefix: such a range is more often a mistake than meant. */
MUST_CHECK int addr_cidr_from_text(Str text, AddrCidr *ret);

/* False when the families differ. */
bool addr_in_cidr(Addr addr, AddrCidr cidr);

/* What an address is. Only ADDR_PUBLIC and ADDR_ALLOWED may be called. */
typedef enum {
    ADDR_PUBLIC,      /* a global unicast address */
    ADDR_ALLOWED,     /* one of the operator's exceptions */
    ADDR_METADATA,    /* a cloud's metadata service, or the link-local range they use */
    ADDR_EMBEDDED_V4, /* IPv6 that carries an IPv4 address (mapped, NAT64, 6to4, Teredo, ISATAP) */
    ADDR_LOOPBACK,
    ADDR_PRIVATE, /* RFC 1918, unique local */
    ADDR_SHARED,  /* carrier-grade NAT */
    ADDR_LINK_LOCAL,
    ADDR_MULTICAST,
    ADDR_RESERVED, /* unspecified, protocol assignments, documentation, benchmarking, not global */
    ADDR_CLASS_N_
} AddrClass;

/* Classifies, in this order: metadata and embedded IPv4 are denied always, then allow (the
 * operator's ranges) is consulted, then the deny list. allow may be NULL when allow_n is 0. */
AddrClass addr_class(Addr addr, const AddrCidr *allow, size_t allow_n);

static inline bool addr_class_ok(AddrClass class)
{
    return class == ADDR_PUBLIC || class == ADDR_ALLOWED;
}

/* "a private address", for messages. */
const char *addr_class_text(AddrClass class);

#endif
