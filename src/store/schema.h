/* The steps that make the schema, in the SQL of the engine that is built in. */
#ifndef GANTRY_STORE_SCHEMA_H
#define GANTRY_STORE_SCHEMA_H

#include "store/migrations.h"

extern const Migration schema_steps[];
extern const size_t schema_steps_n;

#endif
