/* Intrusive doubly linked list. A List is its own sentinel; a linked node is on exactly one list;
 * a node not on any list points at itself. */
#ifndef GANTRY_BASE_LIST_H
#define GANTRY_BASE_LIST_H

#include "base/common.h"

typedef struct ListNode ListNode;
struct ListNode {
    ListNode *next, *prev;
};
typedef ListNode List;

static inline void list_init(List *list)
{
    list->next = list->prev = list;
}

static inline bool list_empty(const List *list)
{
    return list->next == list;
}

/* Whether the node is on a list; list_init first. */
static inline bool list_linked(const ListNode *node)
{
    return node->next != node;
}

static inline void list_push_back(List *list, ListNode *node)
{
    node->prev = list->prev;
    node->next = list;
    list->prev->next = node;
    list->prev = node;
}

static inline void list_push_front(List *list, ListNode *node)
{
    list_push_back(list->next, node);
}

/* Unlinks; harmless on a node that is not linked. */
static inline void list_remove(ListNode *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}

static inline ListNode *list_pop_front(List *list)
{
    ListNode *node = list->next;
    if (node == list) return NULL;
    list_remove(node);
    return node;
}

/* Moves all of from to the end of to; from is empty afterwards. */
static inline void list_move_all(List *to, List *from)
{
    if (list_empty(from)) return;
    from->next->prev = to->prev;
    from->prev->next = to;
    to->prev->next = from->next;
    to->prev = from->prev;
    list_init(from);
}

/* The current node may be removed inside the loop. */
#define LIST_EACH(list, node)                                                       \
    for (ListNode *node = (list)->next, *node##_next_ = node->next; node != (list); \
         node = node##_next_, node##_next_ = node->next)

#endif
