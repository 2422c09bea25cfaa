/* The layout of a tar header (POSIX.1-2017, pax, "ustar Interchange Format"); tar_*.c only. */
#ifndef GANTRY_CODEC_TAR_INTERNAL_H
#define GANTRY_CODEC_TAR_INTERNAL_H

#include "codec/tar.h"

/* Numbers are octal digits, ended by NUL or space. Text ends at NUL or fills its field. */
typedef struct {
    char name[100];
    char mode[8];
    char uid[8];
    char gid[8];
    char size[12];
    char mtime[12];
    char checksum[8];
    char type;
    char link[100];
    char magic[6];
    char version[2];
    char uname[32];
    char gname[32];
    char devmajor[8];
    char devminor[8];
    char prefix[155];
    char unused[12];
} TarHeader;
_Static_assert(sizeof(TarHeader) == TAR_BLOCK_BYTES, "a tar header is one block");

#define TAR_SIZE_OCTAL_MAX ((UINT64_C(1) << 33) - 1) /* eleven octal digits: 8 GiB less one */

/* The sum of the header's bytes, its checksum field taken as spaces. */
unsigned tar_checksum(const TarHeader *header);

/* Zero bytes that fill the last block of contents. */
static inline size_t tar_padding(uint64_t bytes)
{
    return (size_t)(-bytes % TAR_BLOCK_BYTES);
}

#endif
