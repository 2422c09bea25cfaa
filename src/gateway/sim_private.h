/* What the files of the simulator's mind share. Not for other files. */
#ifndef GANTRY_GATEWAY_SIM_PRIVATE_H
#define GANTRY_GATEWAY_SIM_PRIVATE_H

#include "gateway/sim_brain.h"
#include "gateway/sim_text.h"

#define SIM_OPTIONS_MAX 24
#define SIM_KEYS_MAX 16

/* A request with what was found in it. */
typedef struct {
    Arena *arena;
    const SimRequest *request;
    Str text;                     /* the user's, cut to a length that stays quick */
    Str prompt;                   /* the system's, likewise */
    const SimWords *words;        /* of text */
    Str options[SIM_OPTIONS_MAX]; /* categories to choose from */
    size_t options_n;
    Str keys[SIM_KEYS_MAX]; /* of the JSON object asked for */
    size_t keys_n;
    bool json;
} SimMind;

/* sim_read.c: fills options, keys and json from the prompt and the text. */
void mind_read(SimMind *mind);
/* Splits "billing, bug or account" (also by | and /) into out; returns how many. */
size_t sim_options(Str list, Str out[SIM_OPTIONS_MAX]);

/* sim_choose.c: the option that fits text best. wrong: another one. */
Str sim_choose(const SimMind *mind, const Str *options, size_t n);

/* sim_fill.c: writes a value for the property called name, by schema (may be NULL). */
void sim_fill(const SimMind *mind, JsonOut *out, Str name, const Json *schema);

/* sim_fill.c: the first word of the user's text that the schema's pattern fits. */
bool sim_find_pattern(const SimMind *mind, Str pattern, Str *ret);

/* sim_brain.c: the answer in words. */
Str sim_answer_text(const SimMind *mind);

#endif
