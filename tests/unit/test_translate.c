/* Requests, answers and errors, from one model API to another. */
#include "tests/unit/translate_fixture.h"

/* --- the three directions of a request -------------------------------------------------------- */

static const TranslateTarget target = { .model = { "other", 5 }, .out_max = 8000 };
static TranslateFault fault;

static int try_request(Api from, Api to, const TranslateTarget *at, Str body, Str *ret)
{
    Buf out;
    buf_init(&out, 1 << 20);
    int r = translate_request(&fixture, from, parsed(body), to, at, &out, &fault);
    if (r == 0) *ret = kept(&out);
    else buf_deinit(&out);
    return r;
}

static Str request(Api from, Api to, const char *body)
{
    Str text = STR_NULL;
    int r = try_request(from, to, &target, quoted(body), &text);
    if (r != 0) fail_msg("%d: %s", r, fault.text);
    return text;
}

static void expect_request(Api from, Api to, const char *body, const char *want)
{
    expect_json(request(from, to, body), want);
}

static void expect_cannot(Api from, Api to, const char *body, const char *param, const char *says)
{
    Str text;
    assert_int_equal(try_request(from, to, &target, quoted(body), &text), TRANSLATE_E_CANNOT);
    if (param) assert_string_equal(fault.param, param);
    if (str_find(str_of(fault.text), str_of(says)) < 0) fail_msg("\"%s\"", fault.text);
}

static void test_pairs(void **state)
{
    (void)state;
    for (Api from = API_CHAT; from < API_N_; from++) {
        for (Api to = API_CHAT; to < API_N_; to++) {
            bool can = from != to && from != API_EMBEDDINGS && to != API_EMBEDDINGS;
            assert_int_equal(translate_pair(from, to), can);
        }
    }
}

/* A conversation with everything in it, in each API's own words. */
static const char chat_talk[] =
    "{'model':'m','messages':[{'role':'system','content':'Be kind.'},"
    "{'role':'user','content':[{'type':'text','text':'What is this?'},{'type':'image_url',"
    "'image_url':{'url':'data:image/png;base64,iVBORw0='}}]},"
    "{'role':'assistant','content':'Let me see.','tool_calls':[{'id':'call_1','type':'function',"
    "'function':{'name':'look','arguments':'{\\'x\\':1}'}},{'id':'call_2','type':'function',"
    "'function':{'name':'look','arguments':'{\\'x\\':2}'}}]},"
    "{'role':'tool','tool_call_id':'call_1','content':'a cat'},"
    "{'role':'tool','tool_call_id':'call_2','content':'a dog'},"
    "{'role':'user','content':'Which?'}],"
    "'tools':[{'type':'function','function':{'name':'look','description':'Looks.','parameters':"
    "{'type':'object','properties':{'x':{'type':'integer'}}}}}],'tool_choice':'auto',"
    "'max_completion_tokens':300,'temperature':0.5,'stop':['END'],'user':'u1'}";

static const char messages_talk[] =
    "{'model':'other','system':[{'type':'text','text':'Be kind.'}],'messages':["
    "{'role':'user','content':[{'type':'text','text':'What is this?'},{'type':'image','source':"
    "{'type':'base64','media_type':'image/png','data':'iVBORw0='}}]},"
    "{'role':'assistant','content':[{'type':'text','text':'Let me see.'},{'type':'tool_use',"
    "'id':'call_1','name':'look','input':{'x':1}},{'type':'tool_use','id':'call_2','name':'look',"
    "'input':{'x':2}}]},"
    "{'role':'user','content':[{'type':'tool_result','tool_use_id':'call_1','content':'a cat'},"
    "{'type':'tool_result','tool_use_id':'call_2','content':'a dog'},{'type':'text','text':"
    "'Which?'}]}],"
    "'tools':[{'name':'look','description':'Looks.','input_schema':{'type':'object','properties':"
    "{'x':{'type':'integer'}}}}],'tool_choice':{'type':'auto'},'max_tokens':300,'temperature':0.5,"
    "'stop_sequences':['END'],'metadata':{'user_id':'u1'}}";

static void test_chat_to_messages(void **state)
{
    (void)state;
    expect_request(API_CHAT, API_MESSAGES, chat_talk, messages_talk);
}

static void test_messages_to_chat(void **state)
{
    (void)state;
    expect_request(
        API_MESSAGES, API_CHAT, messages_talk,
        "{'model':'other','messages':[{'role':'system','content':'Be kind.'},"
        "{'role':'user','content':[{'type':'text','text':'What is this?'},{'type':'image_url',"
        "'image_url':{'url':'data:image/png;base64,iVBORw0='}}]},"
        "{'role':'assistant','content':'Let me see.','tool_calls':[{'id':'call_1','type':'function',"
        "'function':{'name':'look','arguments':'{\\'x\\':1}'}},{'id':'call_2','type':'function',"
        "'function':{'name':'look','arguments':'{\\'x\\':2}'}}]},"
        "{'role':'tool','tool_call_id':'call_1','content':'a cat'},"
        "{'role':'tool','tool_call_id':'call_2','content':'a dog'},"
        "{'role':'user','content':'Which?'}],"
        "'tools':[{'type':'function','function':{'name':'look','description':'Looks.','parameters':"
        "{'type':'object','properties':{'x':{'type':'integer'}}}}}],'tool_choice':'auto',"
        "'max_completion_tokens':300,'temperature':0.5,'stop':['END'],'user':'u1'}");
}

static const char responses_talk[] =
    "{'model':'other','input':[{'role':'system','content':'Be kind.'},"
    "{'role':'user','content':[{'type':'input_text','text':'What is this?'},{'type':'input_image',"
    "'detail':'auto','image_url':'data:image/png;base64,iVBORw0='}]},"
    "{'role':'assistant','content':'Let me see.'},"
    "{'type':'function_call','call_id':'call_1','name':'look','arguments':'{\\'x\\':1}'},"
    "{'type':'function_call','call_id':'call_2','name':'look','arguments':'{\\'x\\':2}'},"
    "{'type':'function_call_output','call_id':'call_1','output':'a cat'},"
    "{'type':'function_call_output','call_id':'call_2','output':'a dog'},"
    "{'role':'user','content':'Which?'}],"
    "'tools':[{'type':'function','name':'look','description':'Looks.','strict':false,'parameters':"
    "{'type':'object','properties':{'x':{'type':'integer'}}}}],'tool_choice':'auto',"
    "'max_output_tokens':300,'temperature':0.5,'user':'u1','store':false}";

static void test_responses(void **state)
{
    (void)state;
    Str without_stop = quoted(chat_talk);
    ptrdiff_t at = str_find(without_stop, STR("\"stop\":[\"END\"],"));
    assert_true(at > 0);
    memset((char *)(uintptr_t)without_stop.ptr + at, ' ', strlen("'stop':['END'],"));
    Str text = STR_NULL;
    assert_int_equal(try_request(API_CHAT, API_RESPONSES, &target, without_stop, &text), 0);
    expect_json(text, responses_talk);

    text = request(API_RESPONSES, API_MESSAGES, responses_talk);
    at = str_find(quoted(messages_talk), STR("'"));
    assert_int_equal(at, -1);
    Buf want;
    buf_init(&want, 1 << 16);
    const char *stop = strstr(messages_talk, "'stop_sequences':['END'],");
    buf_add(&want, str_make(messages_talk, (size_t)(stop - messages_talk)));
    buf_add(&want, str_of(stop + strlen("'stop_sequences':['END'],")));
    expect_json(text, want.ptr);
    buf_deinit(&want);

    expect_request(API_RESPONSES, API_CHAT,
                   "{'model':'m','instructions':'Be kind.','input':'Hello','stream':true,"
                   "'reasoning':{'effort':'low'},'text':{'verbosity':'low','format':{'type':"
                   "'json_schema','name':'n','schema':{'type':'object'},'strict':true}}}",
                   "{'model':'other','messages':[{'role':'system','content':'Be kind.'},{'role':"
                   "'user','content':'Hello'}],'response_format':{'type':'json_schema',"
                   "'json_schema':{'name':'n','schema':{'type':'object'},'strict':true}},"
                   "'reasoning_effort':'low','verbosity':'low','stream':true,'stream_options':"
                   "{'include_usage':true}}");
}

/* --- what providers insist on ----------------------------------------------------------------- */

#define HI "'messages':[{'role':'user','content':'Hi'}]"

static void test_caps(void **state)
{
    (void)state;
    expect_request(API_CHAT, API_MESSAGES, "{'model':'m'," HI "}",
                   "{'model':'other'," HI ",'max_tokens':8000}");
    expect_request(API_CHAT, API_MESSAGES, "{'model':'m'," HI ",'max_tokens':99999}",
                   "{'model':'other'," HI ",'max_tokens':8000}");
    const TranslateTarget bare = { .model = STR("x"), .cap_member = "max_tokens" };
    Str text;
    Str body = quoted("{'model':'m'," HI "}");
    assert_int_equal(try_request(API_CHAT, API_MESSAGES, &bare, body, &text), 0);
    expect_json(text, "{'model':'x'," HI ",'max_tokens':4096}");
    body = quoted("{'model':'m'," HI ",'max_tokens':7}");
    assert_int_equal(try_request(API_MESSAGES, API_CHAT, &bare, body, &text), 0);
    expect_json(text, "{'model':'x'," HI ",'max_tokens':7}");
}

static void test_sampling(void **state)
{
    (void)state;
    expect_request(API_CHAT, API_MESSAGES,
                   "{'model':'m'," HI ",'temperature':1.7,'top_p':0.9,'seed':7,"
                   "'frequency_penalty':0.2,'n':1,'logprobs':false}",
                   "{'model':'other'," HI ",'max_tokens':8000,'temperature':1}");
    expect_request(API_CHAT, API_MESSAGES, "{'model':'m'," HI ",'top_p':0.9}",
                   "{'model':'other'," HI ",'max_tokens':8000,'top_p':0.9}");
    expect_request(API_MESSAGES, API_CHAT,
                   "{'model':'m','max_tokens':5," HI ",'top_k':5,'thinking':{'type':'enabled',"
                   "'budget_tokens':1024},'temperature':1}",
                   "{'model':'other'," HI ",'max_completion_tokens':5,'temperature':1}");
}

/* Texts without ink are refused, a conversation begins with the user and does not end in space. */
static void test_messages_insists_on_text(void **state)
{
    (void)state;
    expect_request(API_CHAT, API_MESSAGES,
                   "{'model':'m','messages':[{'role':'assistant','content':'Welcome.'},{'role':"
                   "'user','content':''},{'role':'user','content':[{'type':'text','text':' '},"
                   "{'type':'text','text':'Hi'}]},{'role':'assistant','content':'So: '}]}",
                   "{'model':'other','messages':[{'role':'user','content':'(the assistant speaks "
                   "first)'},{'role':'assistant','content':'Welcome.'},{'role':'user','content':[{"
                   "'type':'text','text':'Hi'}]},{'role':'assistant','content':'So:'}],"
                   "'max_tokens':8000}");
    expect_request(API_CHAT, API_MESSAGES,
                   "{'model':'m','messages':[{'role':'developer','content':'Say hi.'}]}",
                   "{'model':'other','messages':[{'role':'user','content':'Say hi.'}],"
                   "'max_tokens':8000}");
}

static void test_system_in_between(void **state)
{
    (void)state;
    expect_request(API_CHAT, API_MESSAGES,
                   "{'model':'m','messages':[{'role':'system','content':'A'},{'role':'user',"
                   "'content':'Hi'},{'role':'developer','content':'B'}]}",
                   "{'model':'other','system':[{'type':'text','text':'A'},{'type':'text','text':"
                   "'B'}]," HI ",'max_tokens':8000}");
    expect_request(API_MESSAGES, API_CHAT, "{'model':'m','max_tokens':5,'system':'A'," HI "}",
                   "{'model':'other','messages':[{'role':'system','content':'A'},{'role':'user',"
                   "'content':'Hi'}],'max_completion_tokens':5}");
}

/* --- tools ------------------------------------------------------------------------------------ */

#define F "'tools':[{'type':'function','function':{'name':'f'}}]"
#define F_TOOL "'tools':[{'name':'f','input_schema':{'type':'object'}}]"

static void test_tool_choice(void **state)
{
    (void)state;
    static const struct {
        const char *chat, *messages;
    } choices[] = {
        { "'auto'", "{'type':'auto'}" },
        { "'none'", "{'type':'none'}" },
        { "'required'", "{'type':'any'}" },
        { "{'type':'function','function':{'name':'f'}}", "{'type':'tool','name':'f'}" },
    };
    for (size_t i = 0; i < ARRAY_N(choices); i++) {
        const char *chat = arena_printf(&fixture, "{'model':'m'," HI "," F ",'tool_choice':%s}",
                                        choices[i].chat)
                               .ptr;
        const char *messages = arena_printf(&fixture,
                                            "{'model':'other'," HI "," F_TOOL
                                            ",'tool_choice':%s,'max_tokens':8000}",
                                            choices[i].messages)
                                   .ptr;
        expect_request(API_CHAT, API_MESSAGES, chat, messages);
        const char *back = arena_printf(&fixture,
                                        "{'model':'other'," HI
                                        ",'tools':[{'type':'function','function':{'name':'f',"
                                        "'parameters':{'type':'object'}}}],'tool_choice':%s,"
                                        "'max_completion_tokens':8000}",
                                        choices[i].chat)
                               .ptr;
        expect_request(API_MESSAGES, API_CHAT, messages, back);
    }
    expect_request(API_CHAT, API_MESSAGES, "{'model':'m'," HI "," F ",'parallel_tool_calls':false}",
                   "{'model':'other'," HI "," F_TOOL ",'tool_choice':{'type':'auto',"
                   "'disable_parallel_tool_use':true},'max_tokens':8000}");
    expect_request(API_MESSAGES, API_CHAT,
                   "{'model':'m','max_tokens':5," HI "," F_TOOL ",'tool_choice':{'type':'any',"
                   "'disable_parallel_tool_use':true}}",
                   "{'model':'other'," HI ",'tools':[{'type':'function','function':{'name':'f',"
                   "'parameters':{'type':'object'}}}],'tool_choice':'required',"
                   "'parallel_tool_calls':false,'max_completion_tokens':5}");
    expect_cannot(API_CHAT, API_MESSAGES,
                  "{'model':'m'," HI "," F ",'tool_choice':{'type':'allowed_tools'}}",
                  "tool_choice", "no counterpart");
}

static void test_results(void **state)
{
    (void)state;
    /* errors are said in words, pictures follow in a user's message */
    expect_request(
        API_MESSAGES, API_CHAT,
        "{'model':'m','max_tokens':5,'messages':[{'role':'assistant','content':[{'type':'tool_use',"
        "'id':'t1','name':'f','input':{}},{'type':'tool_use','id':'t2','name':'f','input':{}}]},"
        "{'role':'user','content':[{'type':'tool_result','tool_use_id':'t1','is_error':true,"
        "'content':'no such order'},{'type':'tool_result','tool_use_id':'t2','content':[{'type':"
        "'text','text':'here'},{'type':'image','source':{'type':'url','url':'https://x/y.png'}}]}"
        "]}]}",
        "{'model':'other','messages':[{'role':'assistant','content':null,'tool_calls':[{'id':'t1',"
        "'type':'function','function':{'name':'f','arguments':'{}'}},{'id':'t2','type':'function',"
        "'function':{'name':'f','arguments':'{}'}}]},{'role':'tool','tool_call_id':'t1','content':"
        "'Error: no such order'},{'role':'tool','tool_call_id':'t2','content':'here\\n(given in the "
        "next message)'},{'role':'user','content':[{'type':'image_url','image_url':{'url':"
        "'https://x/y.png'}}]}],'max_completion_tokens':5}");
    expect_request(
        API_MESSAGES, API_RESPONSES,
        "{'model':'m','max_tokens':5,'messages':[{'role':'user','content':[{'type':'tool_result',"
        "'tool_use_id':'t1','is_error':true,'content':[{'type':'text','text':'a'},{'type':'text',"
        "'text':'b'}]},{'type':'tool_result','tool_use_id':'t2'}]}]}",
        "{'model':'other','input':[{'type':'function_call_output','call_id':'t1','output':[{'type':"
        "'input_text','text':'Error: '},{'type':'input_text','text':'a'},{'type':'input_text',"
        "'text':'b'}]},{'type':'function_call_output','call_id':'t2','output':''}],"
        "'max_output_tokens':5,'store':false}");
}

/* Results stand first, tools of earlier calls are declared, arguments are objects, ids have the
 * letters that are taken. */
static void test_messages_insists_on_tools(void **state)
{
    (void)state;
    expect_request(
        API_CHAT, API_MESSAGES,
        "{'model':'m','messages':[{'role':'user','content':'Hi'},{'role':'assistant','tool_calls':["
        "{'id':'functions.f:0','type':'function','function':{'name':'f','arguments':''}},{'id':'b',"
        "'type':'function','function':{'name':'g','arguments':'{oops'}}]},{'role':'user','content':"
        "'wait'},{'role':'tool','tool_call_id':'functions.f:0','content':''}]}",
        "{'model':'other','messages':[{'role':'user','content':'Hi'},{'role':'assistant','content':"
        "[{'type':'tool_use','id':'functions_f_0_4be0e962e9dcd7b8','name':'f','input':{}},{'type':"
        "'tool_use','id':'b','name':'g','input':{'invalid_arguments':'{oops'}}]},{'role':'user',"
        "'content':[{'type':'tool_result','tool_use_id':'functions_f_0_4be0e962e9dcd7b8','content':"
        "''},{'type':'text','text':'wait'}]}],'tools':[{'name':'f','input_schema':{'type':'object'"
        "}},{'name':'g','input_schema':{'type':'object'}}],'tool_choice':{'type':'none'},"
        "'max_tokens':8000}");
    Str text = request(API_MESSAGES, API_CHAT,
                       "{'model':'m','max_tokens':5,'messages':[{'role':'assistant','content':[{"
                       "'type':'tool_use','id':'toolu_0123456789012345678901234567890123456789',"
                       "'name':'f','input':{'a':12345678901234567890123}}]}]}");
    assert_true(str_find(text, STR("toolu_01234567890123456_")) > 0);
    assert_true(str_find(text, STR("12345678901234567890123}")) > 0); /* every digit */
}

static void test_tools_that_do_not_fit(void **state)
{
    (void)state;
    expect_cannot(API_CHAT, API_MESSAGES,
                  "{'model':'m'," HI ",'tools':[{'type':'custom','custom':{"
                  "'name':'x'}}]}",
                  "tools", "not a function");
    expect_cannot(API_MESSAGES, API_CHAT,
                  "{'model':'m','max_tokens':5," HI ",'tools':[{'type':'bash_20250124','name':"
                  "'bash'}]}",
                  "tools", "bash_20250124");
    expect_cannot(API_RESPONSES, API_MESSAGES,
                  "{'model':'m','input':'x','tools':[{'type':'web_search'}]}", "tools",
                  "web_search");
    expect_cannot(API_CHAT, API_MESSAGES,
                  "{'model':'m'," HI ",'tools':[{'type':'function','function':{'name':'a.b'}}]}",
                  "tools", "a.b");
    Str name = arena_printf(&fixture, "%070d", 1);
    Str body = arena_printf(&fixture,
                            "{'model':'m','max_tokens':5," HI ",'tools':[{'name':'%.*s',"
                            "'input_schema':{}}]}",
                            STR_ARG(name));
    expect_cannot(API_MESSAGES, API_CHAT, body.ptr, "tools", "the tool name");
}

/* --- JSON formats ----------------------------------------------------------------------------- */

static void test_formats(void **state)
{
    (void)state;
    expect_request(API_CHAT, API_MESSAGES,
                   "{'model':'m'," HI ",'response_format':{'type':'json_schema','json_schema':{"
                   "'name':'n','strict':true,'schema':{'type':'object'}}}}",
                   "{'model':'other'," HI ",'output_config':{'format':{'type':'json_schema',"
                   "'schema':{'type':'object'}}},'max_tokens':8000}");
    expect_request(API_MESSAGES, API_CHAT,
                   "{'model':'m','max_tokens':5," HI ",'output_config':{'effort':'low','format':{"
                   "'type':'json_schema','schema':{'type':'object'}}}}",
                   "{'model':'other'," HI ",'response_format':{'type':'json_schema','json_schema':{"
                   "'name':'answer','strict':true,'schema':{'type':'object'}}},"
                   "'max_completion_tokens':5}");
    /* what is only wished for there is asked for here */
    expect_request(API_CHAT, API_MESSAGES,
                   "{'model':'m'," HI ",'response_format':{'type':'json_object'}}",
                   "{'model':'other'," HI ",'system':[{'type':'text','text':'Answer with one JSON "
                   "object and nothing else.'}],'max_tokens':8000}");
    expect_request(API_CHAT, API_MESSAGES,
                   "{'model':'m'," HI ",'response_format':{'type':'json_schema','json_schema':{"
                   "'name':'n','schema':{'type':'object'}}}}",
                   "{'model':'other'," HI ",'system':[{'type':'text','text':'Answer with JSON that "
                   "fits this schema, and with nothing else: {\\'type\\':\\'object\\'}'}],"
                   "'max_tokens':8000}");
    expect_cannot(API_CHAT, API_MESSAGES,
                  "{'model':'m'," HI ",'response_format':{'type':'grammar'}}", "response_format",
                  "no counterpart");
}

/* --- what has no counterpart ------------------------------------------------------------------ */

static void test_cannot_chat(void **state)
{
    (void)state;
    static const struct {
        const char *members, *param;
    } cases[] = {
        { "'n':2", "n" },
        { "'logprobs':true", "logprobs" },
        { "'top_logprobs':3", "top_logprobs" },
        { "'modalities':['text','audio']", "modalities" },
        { "'audio':{'voice':'x'}", "audio" },
        { "'functions':[{'name':'f'}]", "functions" },
        { "'web_search_options':{}", "web_search_options" },
        { "'stop':'\\n'", "stop" },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        Str body = arena_printf(&fixture, "{'model':'m'," HI ",%s}", cases[i].members);
        expect_cannot(API_CHAT, API_MESSAGES, body.ptr, cases[i].param, "");
    }
    static const char *const contents[] = {
        "{'role':'user','content':[{'type':'input_audio','input_audio':{}}]}",
        "{'role':'user','content':[{'type':'image_url','image_url':{'url':'file:///etc/passwd'}}]}",
        "{'role':'user','content':[{'type':'image_url','image_url':{'url':'data:image/png,x'}}]}",
        ("{'role':'user','content':[{'type':'image_url','image_url':{'url':"
         "'data:image/bmp;base64,x'}}]}"),
        "{'role':'user','content':[{'type':'file','file':{'file_id':'file-1'}}]}",
        "{'role':'user','content':7}",
        "{'role':'function','name':'f','content':'x'}",
        "{'role':'assistant','content':'x','audio':{'id':'a'}}",
        "{'role':'assistant','tool_calls':[{'id':'a','type':'function','function':{}}]}",
        "7",
    };
    for (size_t i = 0; i < ARRAY_N(contents); i++) {
        Str body = arena_printf(&fixture, "{'model':'m','messages':[%s]}", contents[i]);
        expect_cannot(API_CHAT, API_MESSAGES, body.ptr, NULL, "");
    }
}

static void test_cannot_others(void **state)
{
    (void)state;
    static const char *const responses[] = {
        "'input':'x','previous_response_id':'resp_1'",
        "'input':'x','conversation':'c'",
        "'input':'x','background':true",
        "'input':[{'type':'item_reference','id':'i'}]",
        "'input':[{'type':'computer_call_output'}]",
        "'input':[{'role':'user','content':[{'type':'input_image','file_id':'f'}]}]",
        "'input':[{'role':'critic','content':'x'}]",
    };
    for (size_t i = 0; i < ARRAY_N(responses); i++) {
        Str body = arena_printf(&fixture, "{'model':'m',%s}", responses[i]);
        expect_cannot(API_RESPONSES, API_CHAT, body.ptr, NULL, "");
    }
    static const char *const messages[] = {
        "'messages':[{'role':'user','content':[{'type':'search_result'}]}]",
        "'messages':[{'role':'user','content':[{'type':'image','source':{'type':'file'}}]}]",
        "'messages':[{'role':'assistant','content':[{'type':'server_tool_use','id':'x'}]}]",
        "'messages':[],'container':'c'",
        "'messages':[],'mcp_servers':[{'url':'x'}]",
        "'messages':[],'stop_sequences':['1','2','3','4','5']",
        ("'messages':[{'role':'user','content':[{'type':'document','source':{'type':'url','url':"
         "'https://x/y.pdf'}}]}]"),
    };
    for (size_t i = 0; i < ARRAY_N(messages); i++) {
        Str body = arena_printf(&fixture, "{'model':'m','max_tokens':5,%s}", messages[i]);
        expect_cannot(API_MESSAGES, API_CHAT, body.ptr, NULL, "");
    }
    expect_cannot(API_CHAT, API_RESPONSES, "{'model':'m'," HI ",'stop':'x'}", "stop", "");
}

static void test_documents(void **state)
{
    (void)state;
    static const char pdf[] =
        "{'model':'m','max_tokens':5,'messages':[{'role':'user','content':[{'type':'document',"
        "'title':'a.pdf','source':{'type':'base64','media_type':'application/pdf','data':'JVBE'}},"
        "{'type':'document','source':{'type':'text','media_type':'text/plain','data':'words'},"
        "'cache_control':{'type':'ephemeral'}},{'type':'thinking','thinking':'x','signature':'y'}"
        "]}]}";
    expect_request(API_MESSAGES, API_CHAT, pdf,
                   "{'model':'other','messages':[{'role':'user','content':[{'type':'file','file':{"
                   "'filename':'a.pdf','file_data':'data:application/pdf;base64,JVBE'}},{'type':"
                   "'text','text':'words'}]}],'max_completion_tokens':5}");
    expect_request(API_MESSAGES, API_RESPONSES, pdf,
                   "{'model':'other','input':[{'role':'user','content':[{'type':'input_file',"
                   "'filename':'a.pdf','file_data':'data:application/pdf;base64,JVBE'},{'type':"
                   "'input_text','text':'words'}]}],'max_output_tokens':5,'store':false}");
}

static void test_limits(void **state)
{
    (void)state;
    Buf out;
    buf_init(&out, 40);
    Str body = quoted(chat_talk);
    assert_int_equal(
        translate_request(&fixture, API_CHAT, parsed(body), API_MESSAGES, &target, &out, &fault),
        -ENOMEM);
    buf_deinit(&out);
    const Json *talk = parsed(body);
    for (size_t bytes = 0; bytes < 40000; bytes += 512) {
        CLEANUP(arena_deinit) Arena small = { .max = bytes };
        buf_init(&out, 1 << 20);
        int r = translate_request(&small, API_CHAT, talk, API_MESSAGES, &target, &out, &fault);
        assert_true(r == 0 || r == -ENOMEM);
        buf_deinit(&out);
    }
}

/* --- answers ---------------------------------------------------------------------------------- */

static int try_answer(Api from, Api to, const char *body, Str *ret)
{
    Answer *answer = ARENA_NEW(&fixture, Answer);
    const Json *v = parsed(quoted(body));
    answer_read(from, v, 1, answer);
    TranslateAbout about = { .usage = &answer->usage, .created_s = 1700000000 };
    Buf out;
    buf_init(&out, 1 << 20);
    int r = translate_answer(&fixture, from, v, to, &about, &out);
    if (r == 0) *ret = kept(&out);
    else buf_deinit(&out);
    return r;
}

static void expect_answer(Api from, Api to, const char *body, const char *want)
{
    Str text = STR_NULL;
    assert_int_equal(try_answer(from, to, body, &text), 0);
    expect_json(text, want);
}

static const char messages_answer[] =
    "{'id':'msg_1','type':'message','role':'assistant','model':'claude','content':[{'type':"
    "'thinking','thinking':'hm','signature':'s'},{'type':'text','text':'Let me see.'},{'type':"
    "'tool_use','id':'toolu_1','name':'look','input':{'x':1}}],'stop_reason':'tool_use',"
    "'stop_sequence':null,'usage':{'input_tokens':10,'cache_creation_input_tokens':3,"
    "'cache_read_input_tokens':100,'cache_creation':{'ephemeral_5m_input_tokens':1,"
    "'ephemeral_1h_input_tokens':2},'output_tokens':20,'output_tokens_details':{"
    "'thinking_tokens':7}}}";

static void test_answer_messages_to_chat(void **state)
{
    (void)state;
    expect_answer(API_MESSAGES, API_CHAT, messages_answer,
                  "{'id':'chatcmpl-1','object':'chat.completion','created':1700000000,'model':"
                  "'claude','choices':[{'index':0,'message':{'role':'assistant','content':'Let me "
                  "see.','refusal':null,'tool_calls':[{'id':'toolu_1','type':'function','function':"
                  "{'name':'look','arguments':'{\\'x\\':1}'}}]},'logprobs':null,'finish_reason':"
                  "'tool_calls'}],'usage':{'prompt_tokens':113,'completion_tokens':20,"
                  "'total_tokens':133,'prompt_tokens_details':{'cached_tokens':100,"
                  "'cache_write_tokens':3},'completion_tokens_details':{'reasoning_tokens':7}}}");
}

static void test_answer_messages_to_responses(void **state)
{
    (void)state;
    expect_answer(
        API_MESSAGES, API_RESPONSES, messages_answer,
        "{'id':'resp_1','object':'response','created_at':1700000000,'status':'completed','error':"
        "null,'incomplete_details':null,'instructions':null,'metadata':{},'model':'claude',"
        "'parallel_tool_calls':true,'tool_choice':'auto','tools':[],'output':[{'type':'message',"
        "'id':'msg_1_0','status':'completed','role':'assistant','content':[{'type':'output_text',"
        "'text':'Let me see.','annotations':[],'logprobs':[]}]},{'type':'function_call','id':"
        "'fc_1_1','status':'completed','call_id':'toolu_1','name':'look','arguments':'{\\'x\\':1}'}"
        "],'usage':{'input_tokens':113,'input_tokens_details':{'cached_tokens':100,"
        "'cache_write_tokens':3},'output_tokens':20,'output_tokens_details':{'reasoning_tokens':7},"
        "'total_tokens':133}}");
}

static void test_answer_chat_to_messages(void **state)
{
    (void)state;
    expect_answer(
        API_CHAT, API_MESSAGES,
        "{'id':'chatcmpl-9','model':'gpt','choices':[{'index':0,'message':{'role':'assistant',"
        "'content':'So.','tool_calls':[{'id':'call_1','type':'function','function':{'name':'f',"
        "'arguments':'{\\'a\\':[1,2]}'}}]},'finish_reason':'tool_calls'}],'usage':{'prompt_tokens':"
        "113,'completion_tokens':20,'total_tokens':133,'prompt_tokens_details':{'cached_tokens':"
        "100,'cache_write_tokens':3},'completion_tokens_details':{'reasoning_tokens':7}}}",
        "{'id':'msg_9','type':'message','role':'assistant','model':'gpt','content':[{'type':'text',"
        "'text':'So.'},{'type':'tool_use','id':'call_1','name':'f','input':{'a':[1,2]}}],"
        "'stop_reason':'tool_use','stop_sequence':null,'usage':{'input_tokens':10,"
        "'cache_creation_input_tokens':3,'cache_read_input_tokens':100,'output_tokens':20,"
        "'output_tokens_details':{'thinking_tokens':7}}}");
}

/* Calls without ids get some, and "stop" does not hide them. */
static void test_answer_of_a_careless_server(void **state)
{
    (void)state;
    expect_answer(
        API_CHAT, API_MESSAGES,
        "{'id':'x','model':'m','choices':[{'message':{'content':'','tool_calls':[{'function':{"
        "'name':'f','arguments':''}},{'function':{'name':'f','arguments':'{'}}]},'finish_reason':"
        "'stop'}]}",
        "{'id':'msg_x','type':'message','role':'assistant','model':'m','content':[{'type':"
        "'tool_use','id':'call_0_x','name':'f','input':{}},{'type':'tool_use','id':'call_1_x',"
        "'name':'f','input':{'invalid_arguments':'{'}}],'stop_reason':'tool_use','stop_sequence':"
        "null,'usage':{'input_tokens':0,'cache_creation_input_tokens':0,'cache_read_input_tokens':"
        "0,'output_tokens':0}}");
}

static void test_stop_reasons(void **state)
{
    (void)state;
    static const struct {
        const char *messages, *chat;
    } both[] = {
        { "end_turn", "stop" },      { "max_tokens", "length" },
        { "stop_sequence", "stop" }, { "refusal", "content_filter" },
        { "pause_turn", "length" },  { "model_context_window_exceeded", "length" },
        { "something_new", "stop" },
    };
    for (size_t i = 0; i < ARRAY_N(both); i++) {
        Str body = arena_printf(&fixture,
                                "{'id':'msg_1','model':'c','content':[{'type':'text','text':'x'}],"
                                "'stop_reason':'%s','usage':{'input_tokens':1,'output_tokens':1}}",
                                both[i].messages);
        Str text = STR_NULL;
        assert_int_equal(try_answer(API_MESSAGES, API_CHAT, body.ptr, &text), 0);
        Str want = arena_printf(&fixture, "\"finish_reason\":\"%s\"", both[i].chat);
        if (str_find(text, want) < 0) fail_msg("%.*s", STR_ARG(text));
    }
    static const struct {
        const char *chat, *messages;
    } back[] = { { "stop", "end_turn" },
                 { "length", "max_tokens" },
                 { "content_filter", "refusal" },
                 { "eos", "end_turn" } };
    for (size_t i = 0; i < ARRAY_N(back); i++) {
        Str body = arena_printf(&fixture,
                                "{'id':'c','model':'m','choices':[{'message':{'content':'x'},"
                                "'finish_reason':'%s'}]}",
                                back[i].chat);
        Str text = STR_NULL;
        assert_int_equal(try_answer(API_CHAT, API_MESSAGES, body.ptr, &text), 0);
        Str want = arena_printf(&fixture, "\"stop_reason\":\"%s\"", back[i].messages);
        if (str_find(text, want) < 0) fail_msg("%.*s", STR_ARG(text));
    }
}

static void test_refusals_and_limits(void **state)
{
    (void)state;
    Str text = STR_NULL;
    assert_int_equal(try_answer(API_CHAT, API_RESPONSES,
                                "{'id':'c','model':'m','choices':[{'message':{'content':null,"
                                "'refusal':'No.'},'finish_reason':'stop'}]}",
                                &text),
                     0);
    assert_true(str_find(text, STR("\"refusal\":\"No.\"")) > 0);
    assert_true(str_find(text, STR("\"status\":\"completed\"")) > 0);
    assert_true(str_find(text, STR("\"usage\"")) < 0);
    assert_int_equal(try_answer(API_RESPONSES, API_MESSAGES,
                                "{'id':'resp_1','status':'incomplete','incomplete_details':{"
                                "'reason':'max_output_tokens'},'output':[{'type':'reasoning'},{"
                                "'type':'message','role':'assistant','content':[{'type':"
                                "'output_text','text':'a'}]}]}",
                                &text),
                     0);
    assert_true(str_find(text, STR("\"stop_reason\":\"max_tokens\"")) > 0);
    assert_int_equal(try_answer(API_MESSAGES, API_RESPONSES,
                                "{'id':'msg_1','content':[],'stop_reason':'max_tokens'}", &text),
                     0);
    assert_true(str_find(text, STR("{\"reason\":\"max_output_tokens\"}")) > 0);
    assert_int_equal(try_answer(API_RESPONSES, API_CHAT,
                                "{'id':'r','status':'completed','output':[{'type':'message','role':"
                                "'assistant','content':[{'type':'refusal','refusal':'No.'}]}]}",
                                &text),
                     0);
    assert_true(str_find(text, STR("\"finish_reason\":\"content_filter\"")) > 0);
    static const char *const no_answers[] = { "{}", "{'choices':[]}", "{'choices':[{}]}",
                                              "{'content':'x'}", "{'output':[{'type':'odd'}]}" };
    for (size_t i = 0; i < ARRAY_N(no_answers); i++)
        for (Api from = API_CHAT; from <= API_MESSAGES; from++)
            assert_int_equal(
                try_answer(from, from == API_CHAT ? API_MESSAGES : API_CHAT, no_answers[i], &text),
                TRANSLATE_E_CANNOT);
}

/* --- errors ----------------------------------------------------------------------------------- */

static void expect_error(int status, Api to, const char *body, const char *want)
{
    Buf out;
    buf_init(&out, 1 << 16);
    assert_true(translate_error(&fixture, quoted(body), status, to, STR("req_1"), &out));
    expect_json(kept(&out), want);
}

static void test_errors(void **state)
{
    (void)state;
    expect_error(529, API_CHAT,
                 "{'type':'error','error':{'type':'overloaded_error','message':'Overloaded'}}",
                 "{'error':{'message':'Overloaded','type':'server_error','param':null,'code':"
                 "'overloaded'}}");
    expect_error(429, API_MESSAGES,
                 "{'error':{'message':'slow','type':'requests','code':'rate_limit_exceeded'}}",
                 "{'type':'error','error':{'type':'rate_limit_error','message':'slow'},"
                 "'request_id':'req_1'}");
    expect_error(429, API_MESSAGES, "{'error':{'message':'broke','code':'insufficient_quota'}}",
                 "{'type':'error','error':{'type':'billing_error','message':'broke'},'request_id':"
                 "'req_1'}");
    expect_error(
        502, API_MESSAGES, "<html>bad gateway</html>",
        "{'type':'error','error':{'type':'api_error','message':'the provider answered with "
        "status 502'},'request_id':'req_1'}");
    expect_error(400, API_RESPONSES, "{'error':'plain words'}",
                 "{'error':{'message':'plain words','type':'invalid_request_error','param':null,"
                 "'code':null}}");
    expect_error(418, API_CHAT, "{'message':'tea'}",
                 "{'error':{'message':'tea','type':'invalid_request_error','param':null,'code':"
                 "null}}");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_pairs),
        TEST(test_chat_to_messages),
        TEST(test_messages_to_chat),
        TEST(test_responses),
        TEST(test_caps),
        TEST(test_sampling),
        TEST(test_messages_insists_on_text),
        TEST(test_system_in_between),
        TEST(test_tool_choice),
        TEST(test_results),
        TEST(test_messages_insists_on_tools),
        TEST(test_tools_that_do_not_fit),
        TEST(test_formats),
        TEST(test_cannot_chat),
        TEST(test_cannot_others),
        TEST(test_documents),
        TEST(test_limits),
        TEST(test_answer_messages_to_chat),
        TEST(test_answer_messages_to_responses),
        TEST(test_answer_chat_to_messages),
        TEST(test_answer_of_a_careless_server),
        TEST(test_stop_reasons),
        TEST(test_refusals_and_limits),
        TEST(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
