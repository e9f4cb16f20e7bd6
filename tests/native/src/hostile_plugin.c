/* A "plug-in" that must never be loaded: it says so and ends the process. */
#include <stdio.h>
#include <stdlib.h>

__attribute__((constructor)) static void loaded(void) {
    fputs("HOSTILE PLUG-IN LOADED\n", stderr);
    fflush(stderr);
    _Exit(66);
}
