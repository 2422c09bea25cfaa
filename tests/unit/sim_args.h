/* What a simulator is told: FIRST[-LAST] [RULE]: which seeds to play, and which rule is broken. */
#ifndef GANTRY_TESTS_SIM_ARGS_H
#define GANTRY_TESTS_SIM_ARGS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* The place of a name among n; -1: it is none of them. */
static inline int sim_rule(const char *name, const char *const *names, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(name, names[i]) == 0) return i;
    return -1;
}

/* Leaves what is not given as it is. */
static inline void sim_seeds(int argc, char **argv, uint64_t *ret_first, uint64_t *ret_n)
{
    if (argc < 2) return;
    const char *dash = strchr(argv[1], '-');
    *ret_first = strtoull(argv[1], NULL, 10);
    *ret_n = dash ? strtoull(dash + 1, NULL, 10) - *ret_first + 1 : 1;
}

#endif
