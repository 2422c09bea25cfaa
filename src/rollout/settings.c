#include "rollout/settings.h"

#include "base/diag.h"
#include "store/agent_store.h"

int settings_of_spec(Arena *arena, const AgentSpec *spec, Str *ret)
{
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, MANIFEST_BYTES_MAX * 2);
    JsonOut out = json_out(&text);
    json_out_object(&out);
    json_out_key(&out, "retry");
    agent_retry_write(&out, &spec->retry);
    if (spec->tasks_max >= 0 || spec->session_max >= 0) {
        json_out_key(&out, "concurrency");
        agent_concurrency_write(&out, &(AgentConcurrency){ spec->tasks_max, spec->session_max });
    }
    if (spec->rollout) json_out_kval(&out, "rollout", spec->rollout);
    if (spec->graders) json_out_kval(&out, "graders", spec->graders);
    json_out_object_end(&out);
    *ret = arena_str(arena, buf_str(&text));
    return json_out_ok(&out) && ret->ptr ? 0 : -ENOMEM;
}

int settings_of_manifest(Arena *arena, Str manifest, Str *ret)
{
    AgentSpec spec;
    ManifestError error;
    size_t n;
    int r = manifest_parse(arena, manifest, &spec, &error, 1, &n); /* JSON is YAML too */
    if (r == MANIFEST_E_INVALID) return diag_set(-EINVAL, "a stored manifest is not valid");
    return r < 0 ? r : settings_of_spec(arena, &spec, ret);
}
