// Exercises pyllama/native/csrc on its own, for the sanitizers: the log from many threads, lines that
// are too long or never end, buffers that are too small, symbols that are not there.

#undef NDEBUG
#include "pyllama_shim.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { DEBUG = 1, WARN = 3, ERROR = 4, CONT = 5, THREADS = 4, LINES = 5000 };

static atomic_int delivered;

static void sink(int level, const char *line) {
    assert(level >= WARN && strlen(line) < 512);
    atomic_fetch_add(&delivered, 1);
}

static void largest(void) {
    float numbers[100];
    for (int n = 1; n <= 100; n++) {  // of every length, at every place, and the first of several
        for (int at = 0; at < n; at++) {
            for (int i = 0; i < n; i++) {
                numbers[i] = -1.0f - (float) (i % 7);
            }
            numbers[at] = 3.0f;
            numbers[n - 1] = 3.0f;
            assert(pyllama_largest(numbers, n) == at);
        }
    }
}

static void one_thread(void) {
    char out[4096];
    size_t mark = pyllama_log_mark();
    assert(pyllama_log_since(mark, out, sizeof out) == 0 && out[0] == '\0');

    pyllama_log(DEBUG, "not kept\n", NULL);
    pyllama_log(ERROR, "first ", NULL);
    pyllama_log(CONT, "and ", NULL);
    pyllama_log(CONT, "more\nsecond\n\nthird without an end", NULL);
    assert(pyllama_log_since(mark, out, sizeof out) > 0);
    assert(strcmp(out, "first and more\nsecond\nthird without an end") == 0);

    mark = pyllama_log_mark();
    char big[2000];
    memset(big, 'x', sizeof big);
    big[sizeof big - 1] = '\0';
    pyllama_log(WARN, big, NULL);
    assert(pyllama_log_since(mark, out, sizeof out) == 511);
    assert(pyllama_log_since(mark, out, 1) == 0 && out[0] == '\0');
    assert(pyllama_log_since(mark, out, 0) == 0);
    assert(pyllama_log_since(mark, out, 512) == 0); // a line and its end do not fit

    mark = pyllama_log_mark();
    for (int i = 0; i < 200; i++) { // more than are kept: the latest stay
        char text[32];
        snprintf(text, sizeof text, "line %d\n", i);
        pyllama_log(WARN, text, NULL);
    }
    size_t size = pyllama_log_since(mark, out, sizeof out);
    assert(size > 0 && strstr(out, "line 199") != NULL && strstr(out, "line 100\n") == NULL);
    assert(strlen(out) == size);
}

static void *many(void *number) {
    char out[8192], text[64], own[16];
    snprintf(own, sizeof own, "thread %d ", *(int *) number);
    for (int i = 0; i < LINES; i++) {
        size_t mark = pyllama_log_mark();
        pyllama_log(WARN, own, NULL);
        snprintf(text, sizeof text, "line %d\n", i);
        pyllama_log(CONT, text, NULL);
        pyllama_log_since(mark, out, sizeof out);
        for (char *line = strtok(out, "\n"); line != NULL; line = strtok(NULL, "\n")) {
            assert(strncmp(line, own, strlen(own)) == 0); // never another thread's
        }
    }
    return NULL;
}

int main(void) {
    largest();
    one_thread();

    pyllama_log_set_sink(sink);
    pyllama_log_set_threshold(WARN);
    pthread_t threads[THREADS];
    int numbers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        pthread_create(&threads[i], NULL, many, &numbers[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    assert(atomic_load(&delivered) == THREADS * LINES);
    pyllama_log_set_threshold(CONT);
    pyllama_log(ERROR, "nobody hears this\n", NULL);
    assert(atomic_load(&delivered) == THREADS * LINES);

    char error[64] = "", place[4096];
    assert(pyllama_open("/nowhere/libx.so", error, sizeof error) == NULL);
    assert(strlen(error) > 0 && strlen(error) < sizeof error);
    void *self = pyllama_open("libc.so.6", error, sizeof error);
    assert(self != NULL);
    assert(pyllama_symbol(self, "no_such_symbol") == NULL && pyllama_symbol(self, "strlen") != NULL);
    assert(pyllama_identity_of(self) == NULL && pyllama_score(self) == -1);
    assert(pyllama_origin(pyllama_symbol(self, "strlen"), place, sizeof place) && strlen(place) > 0);
    assert(pyllama_origin(pyllama_symbol(self, "strlen"), place, 4) && strlen(place) == 3);

    int flag = 0;
    assert(!pyllama_abort(&flag));
    flag = 1;
    assert(pyllama_abort(&flag));
    puts("ok");
    return 0;
}
