/* Package: an agent directory as an archive, and what a version is made of read from one.
 *
 * There are two archives, both tar in the canonical form of codec/tar.h (files and symlinks only,
 * so empty directories vanish):
 *
 *   upload  everything that is kept, with agent.yaml, the prompt and the tools file; paths are
 *           relative to the agent directory. What `gantry version create` sends, gzipped.
 *   code    the contents of spec.code without those three files and without .gantryignore; paths
 *           are relative to spec.code. Its SHA-256 is part of the version, so a changed prompt
 *           shows as a change of the prompt alone.
 *
 * What is kept: everything but .git/ and .gantry/ (at any depth), and but what .gantryignore in the
 * agent directory names. It is gitignore's language: comments, `*` `?` `[a-z]` within a name, `**`
 * for any directories, a `/` at the end for directories only, a `/` elsewhere binds the pattern to
 * the agent directory, `!` takes a path back in unless a directory above it is left out. Before its
 * lines stand __pycache__/, *.pyc and .DS_Store, which say nothing about the agent and would
 * give the same code another digest on every machine, and .env and .env.*, which hold secrets: a
 * version is kept for ever and can be downloaded. node_modules/ and the like are kept unless it
 * names them: an agent needs its packages. An upload is filtered by the same rules.
 *
 * The functions are pure CPU and files: they block, so they run on a plain thread or through
 * work_wait.
 */
#ifndef GANTRY_STORE_PACKAGE_H
#define GANTRY_STORE_PACKAGE_H

#include "base/arena.h"
#include "base/buf.h"
#include "codec/digest.h"
#include "logic/manifest.h"
#include "logic/tools.h"

#define PACKAGE_MANIFEST "agent.yaml"
#define PACKAGE_IGNORE ".gantryignore"
#define PACKAGE_PROMPT_BYTES_MAX (1 << 20)
#define PACKAGE_IGNORE_BYTES_MAX (64 << 10)
#define PACKAGE_IGNORE_RULES_MAX 1000
#define PACKAGE_ISSUES_MAX 100

/* Zeros stand for the defaults. */
typedef struct {
    size_t entries_max; /* files, symlinks, directories; 0: 20,000 */
    size_t bytes_max;   /* contents of all files; 0: 128 MiB */
} PackageLimits;

/* Packs the directory as an upload, appended to out. Symlinks are kept as such and must stay
 * inside; sockets, devices and the like are refused. agent.yaml must be there; nothing in it is
 * checked. Returns 0, -ENOENT (no such directory, or no agent.yaml), -EINVAL (a symlink that leads
 * outside, a special file, a malformed .gantryignore), -E2BIG and -EFBIG (limits), -ENOMEM (out is
 * full), -errno; with diag naming the path. */
MUST_CHECK int package_from_dir(const char *dir, const PackageLimits *limits, Buf *out);

/* A finding about one of the files. */
typedef struct {
    Str file; /* "agent.yaml", the prompt's or tools' path, or empty: the archive */
    Issue issue;
} PackageIssue;

/* Texts live in the arena that was given to package_read. */
typedef struct {
    AgentSpec spec;
    Str manifest; /* text of agent.yaml */
    Str prompt;   /* text of the prompt file, empty: none */
    ToolSet tools;
    bool has_code;                    /* a code archive was made (it may have no entries) */
    char code_digest[SHA256_HEX_MAX]; /* of it, "" without one */
    Str components;                   /* canonical, see logic/version.h */
    char version_id[SHA256_HEX_MAX];
    PackageIssue issues[PACKAGE_ISSUES_MAX]; /* warnings, or what is wrong */
    size_t issues_n;
} Package;

/* Reads an upload (tar, or gzip of one), checks everything, and appends the code archive to code.
 * All errors of all files are collected. seed (from entropy) keys the table of paths. Returns 0,
 * PACKAGE_E_INVALID (issues say what is wrong; the rest of *ret means nothing), -EFBIG and -E2BIG
 * (limits), -ENOMEM (arena or code is full); with diag. */
#define PACKAGE_E_INVALID 1
MUST_CHECK int package_read(Arena *arena, Str upload, const PackageLimits *limits, uint64_t seed,
                            Buf *code, Package *ret);

/* A warning about a member of agent.yaml ("spec.model"), where it stands; message lives as long as
 * package. Dropped when there are too many. */
void package_warn(Arena *arena, Package *package, Str member, Str message);

/* --- what .gantryignore means ----------------------------------------------------------------- */

typedef struct PackageRule PackageRule;

typedef struct {
    const PackageRule *rules; /* in order; the last that fits decides */
    size_t n;
} PackageIgnore;

/* Reads the text, after the rules that always stand first. Patterns borrow from text. Returns 0,
 * -EINVAL (diag: "line L: ..."), -E2BIG (too many rules), -ENOMEM (arena full). */
MUST_CHECK int package_ignore_parse(Arena *arena, Str text, PackageIgnore *ret);

/* Whether a path is left out, itself or for a directory above it. path is relative to the agent
 * directory, without a final '/'. */
bool package_ignored(const PackageIgnore *ignore, Str path, bool is_dir);

#endif
