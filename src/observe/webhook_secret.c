#include "observe/webhook_secret.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/diag.h"
#include "codec/base64.h"
#include "sys/entropy.h"

#define SECRET_FILE "webhook-secret"
#define SECRET_PREFIX "whsec_"
#define SECRET_BYTES 32
#define FILE_BYTES_MAX 512
#define PATH_BYTES_MAX 4096

/* Secrets that sign. */
typedef struct {
    char current[WEBHOOK_SECRET_TEXT_MAX];
    char previous[WEBHOOK_SECRET_TEXT_MAX]; /* empty: none */
    int64_t previous_until_ms;
} Pair;

struct WebhookSecrets {
    char *path;               /* NULL: they are configured */
    pthread_mutex_t rotating; /* one after the other; held while the file is written */
    pthread_mutex_t lock;
    Pair pair; /* guarded by lock */
};

static int secret_check(Str secret)
{
    char signature[WEBHOOK_SIGNATURE_MAX];
    return webhook_sign(secret, STR("check"), 0, STR(""), signature);
}

static void secret_make(char out[WEBHOOK_SECRET_TEXT_MAX])
{
    uint8_t bytes[SECRET_BYTES];
    entropy_fill(bytes, sizeof bytes);
    memcpy(out, SECRET_PREFIX, strlen(SECRET_PREFIX));
    base64_encode(out + strlen(SECRET_PREFIX), str_make((const char *)bytes, sizeof bytes));
    explicit_bzero(bytes, sizeof bytes);
}

/* --- the file --------------------------------------------------------------------------------- */

static bool secret_read(Str text, char out[WEBHOOK_SECRET_TEXT_MAX])
{
    return str_starts_with(text, STR(SECRET_PREFIX)) && secret_check(text) == 0 &&
           str_copy(out, WEBHOOK_SECRET_TEXT_MAX, text);
}

/* "SECRET UNTIL_MS". */
static bool previous_read(Str line, Pair *ret)
{
    Str secret, until = str_split(line, ' ', &secret, NULL);
    return secret_read(secret, ret->previous) &&
           str_to_i64(str_trim(until), &ret->previous_until_ms) == 0;
}

static bool pair_parse(Str text, Pair *ret)
{
    Str first, second = str_trim(str_split(text, '\n', &first, NULL));
    *ret = (Pair){ 0 };
    return secret_read(str_trim(first), ret->current) &&
           (str_empty(second) || previous_read(second, ret));
}

static int pair_read(const char *path, Pair *ret)
{
    char text[FILE_BYTES_MAX];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -ENOENT : diag_set(-errno, "%s: %s", path, strerror(errno));
    ssize_t n = read(fd, text, sizeof text);
    int r = n < 0 ? diag_set(-errno, "%s: %s", path, strerror(errno)) : 0;
    close(fd);
    if (r == 0 && !pair_parse(str_make(text, (size_t)n), ret))
        r = diag_set(-EINVAL, "%s holds no webhook secret; remove it and a new one is made", path);
    explicit_bzero(text, sizeof text);
    return r;
}

static int text_write(int fd, const char *text)
{
    size_t len = strlen(text);
    errno = 0;
    ssize_t n = write(fd, text, len);
    if (n == (ssize_t)len && fsync(fd) == 0) return 0;
    return errno ? -errno : -EIO;
}

/* The directory's entry too is to survive a loss of power. */
static int dir_sync(const char *path)
{
    char dir[PATH_BYTES_MAX];
    const char *slash = strrchr(path, '/');
    str_copy(dir, sizeof dir, str_make(path, slash ? (size_t)(slash - path) : 0));
    int fd = open(dir[0] ? dir : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -errno;
    int r = fsync(fd) < 0 ? -errno : 0;
    close(fd);
    return r;
}

/* In one step: a reader, or a crash, finds the old file or the new one. */
static int pair_write(const char *path, const Pair *pair)
{
    char text[FILE_BYTES_MAX], temporary[PATH_BYTES_MAX];
    if (snprintf(temporary, sizeof temporary, "%s.new", path) >= (int)sizeof temporary)
        return diag_set(-ENAMETOOLONG, "%s is too long", path);
    int n = snprintf(text, sizeof text, "%s\n", pair->current);
    if (pair->previous[0])
        snprintf(text + n, sizeof text - (size_t)n, "%s %" PRId64 "\n", pair->previous,
                 pair->previous_until_ms);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int r = fd < 0 ? -errno : text_write(fd, text);
    if (fd >= 0) close(fd);
    explicit_bzero(text, sizeof text);
    if (r == 0 && rename(temporary, path) < 0) r = -errno;
    if (r == 0) r = dir_sync(path);
    return r == 0 ? 0 : diag_set(r, "%s cannot be written: %s", path, strerror(-r));
}

/* --- life ------------------------------------------------------------------------------------- */

static int file_open(WebhookSecrets *s, const char *data_dir)
{
    char path[PATH_BYTES_MAX];
    if (snprintf(path, sizeof path, "%s/" SECRET_FILE, data_dir) >= (int)sizeof path)
        return diag_set(-ENAMETOOLONG, "%s is too long", data_dir);
    s->path = xstrdup(path);
    int r = pair_read(path, &s->pair);
    if (r != -ENOENT) return r;
    secret_make(s->pair.current);
    return pair_write(path, &s->pair);
}

static int configured_open(WebhookSecrets *s, const WebhookSecretOptions *options)
{
    int r = secret_check(options->secret);
    if (r == 0 && !str_empty(options->previous)) r = secret_check(options->previous);
    if (r < 0) return r;
    if (!str_copy(s->pair.current, sizeof s->pair.current, options->secret) ||
        !str_copy(s->pair.previous, sizeof s->pair.previous, options->previous))
        return diag_set(-EINVAL, "a webhook secret is too long");
    s->pair.previous_until_ms = INT64_MAX;
    return 0;
}

int webhook_secrets_open(const WebhookSecretOptions *options, WebhookSecrets **ret)
{
    WebhookSecrets *s = xcalloc(1, sizeof *s);
    pthread_mutex_init(&s->rotating, NULL);
    pthread_mutex_init(&s->lock, NULL);
    assert(options->secret.len || options->data_dir);
    int r = str_empty(options->secret) ? file_open(s, options->data_dir)
                                       : configured_open(s, options);
    if (r < 0) webhook_secrets_free(s);
    else *ret = s;
    return r;
}

void webhook_secrets_free(WebhookSecrets *s)
{
    if (!s) return;
    explicit_bzero(&s->pair, sizeof s->pair);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->rotating);
    free(s->path);
    free(s);
}

static Pair pair_copy(WebhookSecrets *s)
{
    pthread_mutex_lock(&s->lock);
    Pair pair = s->pair;
    pthread_mutex_unlock(&s->lock);
    return pair;
}

static void pair_set(WebhookSecrets *s, const Pair *pair)
{
    pthread_mutex_lock(&s->lock);
    s->pair = *pair;
    pthread_mutex_unlock(&s->lock);
}

int webhook_secrets_sign(WebhookSecrets *s, Str id, int64_t timestamp_s, Str body,
                         char out[WEBHOOK_SIGNATURES_MAX])
{
    Pair pair = pair_copy(s);
    bool both = pair.previous[0] && timestamp_s < pair.previous_until_ms / 1000;
    int r = webhook_sign(str_of(pair.current), id, timestamp_s, body, out);
    size_t len = r == 0 ? strlen(out) : 0;
    if (r == 0 && both) {
        out[len] = ' ';
        r = webhook_sign(str_of(pair.previous), id, timestamp_s, body, out + len + 1);
    }
    explicit_bzero(&pair, sizeof pair);
    return r;
}

int webhook_secrets_rotate(WebhookSecrets *s, int64_t overlap_ms, int64_t now_ms,
                           char ret[WEBHOOK_SECRET_TEXT_MAX])
{
    assert(overlap_ms >= 0);
    if (!s->path)
        return diag_set(WEBHOOK_E_CONFIGURED,
                        "the secret is configured: change webhooks.secret, and name the one "
                        "before in webhooks.previousSecret");
    pthread_mutex_lock(&s->rotating);
    Pair pair = pair_copy(s);
    if (overlap_ms > 0) memcpy(pair.previous, pair.current, sizeof pair.previous);
    else pair.previous[0] = '\0';
    pair.previous_until_ms = now_ms + overlap_ms;
    secret_make(pair.current);
    int r = pair_write(s->path, &pair);
    if (r == 0) pair_set(s, &pair);
    pthread_mutex_unlock(&s->rotating);
    if (r == 0) memcpy(ret, pair.current, WEBHOOK_SECRET_TEXT_MAX);
    explicit_bzero(&pair, sizeof pair);
    return r;
}
