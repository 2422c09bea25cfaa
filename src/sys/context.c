#include "sys/context.h"

#if CONTEXT_OURS

/* Saves on the stack and exchanges stack pointers: (void **save_sp, void *sp). */
void context_exchange(void **save_sp, void *sp);

#if defined(__x86_64__)
/* System V ABI: rbx, rbp, r12 to r15 and the control words of the floating-point units. */
__asm__(".text\n"
        ".globl context_exchange\n"
        ".hidden context_exchange\n"
        ".type context_exchange, @function\n"
        "context_exchange:\n"
        "  pushq %rbp\n"
        "  pushq %rbx\n"
        "  pushq %r12\n"
        "  pushq %r13\n"
        "  pushq %r14\n"
        "  pushq %r15\n"
        "  subq $8, %rsp\n"
        "  stmxcsr (%rsp)\n"
        "  fnstcw 4(%rsp)\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  ldmxcsr (%rsp)\n"
        "  fldcw 4(%rsp)\n"
        "  addq $8, %rsp\n"
        "  popq %r15\n"
        "  popq %r14\n"
        "  popq %r13\n"
        "  popq %r12\n"
        "  popq %rbx\n"
        "  popq %rbp\n"
        "  ret\n"
        ".size context_exchange, .-context_exchange\n");

enum { RETURN_AT = 7, WORDS = 9 };

/* As context_exchange leaves it: control words, six registers, where to return to; above that the
 * return address of main, which there is none of. main begins with the stack as a call leaves it.
 */
static void words_fill(uintptr_t *words, void (*main)(void))
{
    uint32_t control[2] = { 0 };
    __asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(control[0]), "=m"(control[1]));
    words[0] = (uintptr_t)control[1] << 32 | control[0];
    words[RETURN_AT] = (uintptr_t)main;
}

#else
/* AAPCS64: x19 to x30 and the low halves of v8 to v15. */
__asm__(".text\n"
        ".globl context_exchange\n"
        ".hidden context_exchange\n"
        ".type context_exchange, %function\n"
        "context_exchange:\n"
        "  sub sp, sp, #160\n"
        "  stp x19, x20, [sp, #0]\n"
        "  stp x21, x22, [sp, #16]\n"
        "  stp x23, x24, [sp, #32]\n"
        "  stp x25, x26, [sp, #48]\n"
        "  stp x27, x28, [sp, #64]\n"
        "  stp x29, x30, [sp, #80]\n"
        "  stp d8, d9, [sp, #96]\n"
        "  stp d10, d11, [sp, #112]\n"
        "  stp d12, d13, [sp, #128]\n"
        "  stp d14, d15, [sp, #144]\n"
        "  mov x9, sp\n"
        "  str x9, [x0]\n"
        "  mov sp, x1\n"
        "  ldp x19, x20, [sp, #0]\n"
        "  ldp x21, x22, [sp, #16]\n"
        "  ldp x23, x24, [sp, #32]\n"
        "  ldp x25, x26, [sp, #48]\n"
        "  ldp x27, x28, [sp, #64]\n"
        "  ldp x29, x30, [sp, #80]\n"
        "  ldp d8, d9, [sp, #96]\n"
        "  ldp d10, d11, [sp, #112]\n"
        "  ldp d12, d13, [sp, #128]\n"
        "  ldp d14, d15, [sp, #144]\n"
        "  add sp, sp, #160\n"
        "  ret\n"
        ".size context_exchange, .-context_exchange\n");

enum { RETURN_AT = 11, WORDS = 20 };

static void words_fill(uintptr_t *words, void (*main)(void))
{
    words[RETURN_AT] = (uintptr_t)main;
}
#endif

void context_make(Context *context, char *stack, size_t stack_bytes, void (*main)(void))
{
    uintptr_t *top = (uintptr_t *)(void *)(stack + (stack_bytes & ~(size_t)15));
    uintptr_t *words = top - WORDS;
    for (size_t i = 0; i < WORDS; i++) words[i] = 0;
    words_fill(words, main);
    context->sp = words;
}

void context_switch(Context *from, const Context *to)
{
    context_exchange(&from->sp, to->sp);
}

#else

void context_make(Context *context, char *stack, size_t stack_bytes, void (*main)(void))
{
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = stack_bytes;
    context->uc_link = NULL;
    makecontext(context, main, 0);
}

void context_switch(Context *from, const Context *to)
{
    swapcontext(from, to);
}

#endif
