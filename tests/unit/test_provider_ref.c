/* What requests name, and what answers give. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "logic/provider_ref.h"

static char found[2048];

static void on_ref(void *ctx, const char *member, Str id)
{
    (void)ctx;
    size_t at = strlen(found);
    snprintf(found + at, sizeof found - at, "%s=%.*s ", member, STR_ARG(id));
}

static const char *of(Api api, const char *text, bool given)
{
    static char json[4096];
    CLEANUP(arena_deinit) Arena arena;
    const Json *doc;
    arena_init(&arena, 1 << 20);
    str_copy(json, sizeof json, str_of(text));
    for (char *c = json; *c; c++)
        if (*c == '\'') *c = '"';
    found[0] = '\0';
    assert_int_equal(json_parse(&arena, str_of(json), NULL, &doc, NULL), 0);
    if (given) provider_refs_given(api, doc, on_ref, NULL);
    else provider_refs_named(api, doc, on_ref, NULL);
    return found;
}

typedef struct {
    Api api;
    const char *text, *want;
} Case;

static void check_all(const Case *cases, size_t n, bool given)
{
    for (size_t i = 0; i < n; i++)
        assert_string_equal(of(cases[i].api, cases[i].text, given), cases[i].want);
}

static void test_named(void **state)
{
    (void)state;
    static const Case cases[] = {
        { API_RESPONSES, "{'previous_response_id':'resp_1'}", "previous_response_id=resp_1 " },
        { API_RESPONSES, "{'previous_response_id':null,'conversation':'conv_1'}",
          "conversation=conv_1 " },
        { API_RESPONSES, "{'conversation':{'id':'conv_2'}}", "conversation=conv_2 " },
        { API_RESPONSES, "{'input':[{'type':'item_reference','id':'msg_1'},{'id':'msg_2'}]}",
          "input=msg_1 input=msg_2 " },
        /* what has its content in it is only called that */
        { API_RESPONSES,
          "{'input':[{'id':'m','role':'user','content':'x'},{'type':'message','id':'m',"
          "'content':[]},{'type':'function_call','id':'f','arguments':'{}'},{'type':'reasoning',"
          "'id':'r','encrypted_content':'zz'},{'type':'function_call_output','id':'o'}]}",
          "" },
        { API_RESPONSES,
          "{'input':[{'type':'reasoning','id':'rs_1','summary':[]},"
          "{'type':'image_generation_call','id':'ig_1'},{'type':'unheard_of','id':'u_1'}]}",
          "input=rs_1 input=ig_1 input=u_1 " },
        { API_RESPONSES,
          "{'input':[{'role':'user','content':[{'type':'input_file','file_id':'file-1'},"
          "{'type':'input_image','file_id':'file-2'},{'type':'input_text','text':'file_id'}]}]}",
          "file_id=file-1 file_id=file-2 " },
        { API_RESPONSES,
          "{'input':'x','tools':[{'type':'file_search','vector_store_ids':['vs_1','vs_2']},"
          "{'type':'code_interpreter','container':'cntr_1'},{'type':'code_interpreter','container':"
          "{'type':'auto','file_ids':['file-3']}},{'type':'function','name':'f','parameters':"
          "{'properties':{'file_id':'not-one'}},'file_id':'nor-this'}]}",
          "vector_store_ids=vs_1 vector_store_ids=vs_2 container=cntr_1 file_ids=file-3 " },
        { API_CHAT,
          "{'messages':[{'role':'user','content':[{'type':'file','file':{'file_id':'file-1'}}]},"
          "{'role':'assistant','audio':{'id':'audio_1'}}]}",
          "file_id=file-1 audio=audio_1 " },
        { API_MESSAGES,
          "{'container':'c_1','system':[{'type':'document','source':{'type':'file','file_id':'f_0'}}],"
          "'messages':[{'role':'user','content':[{'type':'document','source':{'type':'file',"
          "'file_id':'f_1'}},{'type':'container_upload','file_id':'f_2'},{'type':'tool_result',"
          "'content':[{'type':'image','source':{'type':'file','file_id':'f_3'}}]}]},"
          "{'role':'assistant','content':[{'type':'tool_use','id':'t','input':{'file_id':'mine'}}]}]}",
          "file_id=f_1 file_id=f_2 file_id=f_3 container=c_1 file_id=f_0 " },
        { API_MESSAGES, "{'container':{'id':'c_2','skills':[{'skill_id':'s_1'}]},'messages':[]}",
          "container=c_2 skill_id=s_1 " },
        { API_MESSAGES,
          "{'container':{'skills':[{'type':'anthropic','skill_id':'pptx'},{'type':'custom',"
          "'skill_id':'s_2'}]},'messages':[]}",
          "skill_id=s_2 " },
        { API_RESPONSES,
          "{'prompt':{'id':'pmpt_1','variables':{'f':{'type':'input_file','file_id':'file-4'}}}}",
          "file_id=file-4 " },
        /* variables, headers and environments have names of the client's own */
        { API_RESPONSES,
          "{'prompt':{'variables':{'input':{'type':'input_file','file_id':'file-5'},'metadata':"
          "{'type':'input_image','file_id':'file-6'},'container':'a box of apples'}}}",
          "file_id=file-5 file_id=file-6 " },
        { API_RESPONSES,
          "{'tools':[{'type':'mcp','headers':{'file_id':'x'}}],'input':[{'type':"
          "'local_shell_call','id':'l','action':{'type':'exec','env':{'container':'y'}}}]}",
          "input=l " },
        /* in a form that is none: who reads it anyhow shall not find anything */
        { API_RESPONSES,
          "{'previous_response_id':['r'],'conversation':7,'input':[{'type':'item_reference',"
          "'id':7}]}",
          "previous_response_id=? conversation=? input=? " },
        { API_EMBEDDINGS, "{'input':'x','previous_response_id':'r'}", "" },
        { API_RESPONSES,
          "{'metadata':{'file_id':'x'},'prompt':{'id':'pmpt_1'},'input':[1,'x',null]}", "" },
    };
    check_all(cases, ARRAY_N(cases), false);
}

static void test_given(void **state)
{
    (void)state;
    static const Case cases[] = {
        { API_RESPONSES,
          "{'id':'resp_1','conversation':{'id':'conv_1'},'output':[{'type':'message','id':'msg_1',"
          "'content':[{'annotations':[{'file_id':'cfile_1','container_id':'cntr_1'}]}]},"
          "{'type':'code_interpreter_call','id':'ci_1','container_id':'cntr_2'}]}",
          "previous_response_id=resp_1 conversation=conv_1 input=msg_1 file_id=cfile_1 "
          "container_id=cntr_1 input=ci_1 container_id=cntr_2 " },
        { API_RESPONSES, "{'type':'response.created','response':{'id':'resp_2','output':[]}}",
          "previous_response_id=resp_2 " },
        { API_RESPONSES,
          "{'type':'response.output_item.done','item':{'type':'reasoning','id':'rs_1'}}",
          "input=rs_1 " },
        /* what is only repeated is not given: who asks could have it say anything */
        { API_RESPONSES,
          "{'id':'resp_1','metadata':{'id':'x'},'previous_response_id':'p','tools':[{'parameters':"
          "{'id':'y'},'vector_store_ids':['z']}],'output':[{'type':'function_call','id':'fc_1',"
          "'arguments':'{}','content':[{'annotations':[{'file_id':'q'}]}]}]}",
          "previous_response_id=resp_1 input=fc_1 " },
        { API_CHAT, "{'id':'chatcmpl-1','choices':[{'message':{'audio':{'id':'audio_1'}}}]}",
          "audio=audio_1 " },
        { API_CHAT, "{'choices':[{'delta':{'audio':{'id':'audio_2'}}}]}", "audio=audio_2 " },
        { API_MESSAGES,
          "{'id':'msg_1','container':{'id':'c_1'},'content':[{'type':'tool_use','id':'t',"
          "'input':{'file_id':'x','container':{'id':'y'}}},{'type':"
          "'bash_code_execution_tool_result','content':{'content':[{'file_id':'f_1'}]}}]}",
          "container=c_1 file_id=f_1 " },
        { API_MESSAGES, "{'type':'message_delta','delta':{'container':{'id':'c_2'}}}",
          "container=c_2 " },
        { API_EMBEDDINGS, "{'id':'x','data':[]}", "" },
    };
    check_all(cases, ARRAY_N(cases), true);
}

/* Deep nesting ends, and is none of the APIs' places. */
static void test_deep(void **state)
{
    (void)state;
    char text[2048];
    size_t n = (size_t)snprintf(text, sizeof text, "{'input':[");
    for (int i = 0; i < 40; i++) n += (size_t)snprintf(text + n, sizeof text - n, "{'content':");
    n += (size_t)snprintf(text + n, sizeof text - n, "{'file_id':'f'}");
    for (int i = 0; i < 40; i++) n += (size_t)snprintf(text + n, sizeof text - n, "}");
    snprintf(text + n, sizeof text - n, "]}");
    assert_string_equal(of(API_RESPONSES, text, false), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_named),
        cmocka_unit_test(test_given),
        cmocka_unit_test(test_deep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
