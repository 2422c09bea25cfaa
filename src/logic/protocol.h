/* The model APIs that the gateway speaks. */
#ifndef GANTRY_LOGIC_PROTOCOL_H
#define GANTRY_LOGIC_PROTOCOL_H

typedef enum {
    API_CHAT,       /* OpenAI POST /v1/chat/completions */
    API_RESPONSES,  /* OpenAI POST /v1/responses */
    API_MESSAGES,   /* Anthropic POST /v1/messages */
    API_EMBEDDINGS, /* OpenAI POST /v1/embeddings */
    API_N_
} Api;

/* How a provider serves a call, which decides its rates. */
typedef enum {
    SERVICE_UNKNOWN, /* not asked for, not reported */
    SERVICE_STANDARD,
    SERVICE_FLEX,
    SERVICE_PRIORITY,
    SERVICE_BATCH,
    SERVICE_FAST,  /* Anthropic's `speed` */
    SERVICE_OTHER, /* a word that is none of these */
    SERVICE_N_
} Service;

/* Where the provider computes, which may cost more. */
typedef enum {
    REGION_UNKNOWN, /* not said: wherever the account's settings say */
    REGION_GLOBAL,
    REGION_US,
    REGION_EU,
    REGION_OTHER,
    REGION_N_
} Region;

/* How much a web search reads. */
typedef enum { SEARCH_UNKNOWN, SEARCH_LOW, SEARCH_MEDIUM, SEARCH_HIGH, SEARCH_N_ } SearchSize;

/* Tools that a provider runs itself and bills by the call. */
typedef enum {
    SERVER_WEB_SEARCH,
    SERVER_FILE_SEARCH,
    SERVER_CODE,  /* a session of its interpreter */
    SERVER_FETCH, /* costs the tokens of what it reads, and nothing else */
    SERVER_OTHER,
    SERVER_N_
} ServerTool;

#endif
