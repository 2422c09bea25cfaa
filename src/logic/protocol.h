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

#endif
