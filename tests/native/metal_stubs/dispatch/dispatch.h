// What ggml's Metal back end uses of libdispatch, which Debian lacks. Apple's Foundation includes it by itself.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct stub_dispatch * dispatch_semaphore_t;
typedef struct stub_dispatch * dispatch_queue_t;
typedef struct stub_dispatch * dispatch_group_t;
typedef uint64_t               dispatch_time_t;

#define DISPATCH_TIME_FOREVER     (~0ull)
#define DISPATCH_QUEUE_CONCURRENT NULL
#define QOS_CLASS_DEFAULT         0x15

dispatch_semaphore_t dispatch_semaphore_create(intptr_t value);
intptr_t             dispatch_semaphore_signal(dispatch_semaphore_t semaphore);
intptr_t             dispatch_semaphore_wait(dispatch_semaphore_t semaphore, dispatch_time_t timeout);

dispatch_queue_t dispatch_queue_create(const char * label, void * attributes);
dispatch_queue_t dispatch_get_global_queue(intptr_t quality, uintptr_t flags);
void             dispatch_apply(size_t times, dispatch_queue_t queue, void (^work)(size_t));

dispatch_group_t dispatch_group_create(void);
void             dispatch_group_async(dispatch_group_t group, dispatch_queue_t queue, void (^work)(void));
intptr_t         dispatch_group_wait(dispatch_group_t group, dispatch_time_t timeout);

void dispatch_release(struct stub_dispatch * object);
