/* Instrument of tests/native/test_self_locating.py: runs the steps given on the command line, one after the other.
 *   chdir DIR | init | gpu | load_all | vocab FILE | model FILE | report
 * "report" prints the registered back ends, one line each ("backend NAME"), and the plug-in files that are mapped
 * ("plugin PATH"). Exit code 0 unless a step failed. */

#include "ggml-backend.h"
#include "llama.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void report(void) {
    for (size_t i = 0; i < ggml_backend_reg_count(); i++) {
        printf("backend %s\n", ggml_backend_reg_name(ggml_backend_reg_get(i)));
    }
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        printf("device %s\n", ggml_backend_dev_name(ggml_backend_dev_get(i)));
    }
    char line[8192], last[8192] = "";
    FILE * maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof(line), maps)) {
        const char * path = strchr(line, '/');
        if (path && strstr(path, "/libggml-") && !strstr(path, "/libggml-base.") && strcmp(path, last) != 0) {
            strcpy(last, path);
            printf("plugin %s", path);
        }
    }
    if (maps) {
        fclose(maps);
    }
}

static int load(const char * path, int vocab_only) {
    struct llama_model_params params = llama_model_default_params();
    params.vocab_only = vocab_only;
    struct llama_model * model = llama_model_load_from_file(path, params);
    if (model == NULL) {
        printf("model failed\n");
        return 1;
    }
    printf("model loaded\n");
    llama_model_free(model);
    return 0;
}

int main(int argc, char ** argv) {
    int rc = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "chdir") == 0 && i + 1 < argc) {
            if (chdir(argv[++i]) != 0) {
                return 4;
            }
        } else if (strcmp(argv[i], "init") == 0) {
            llama_backend_init();
        } else if (strcmp(argv[i], "gpu") == 0) {
            printf("gpu %d\n", llama_supports_gpu_offload());
        } else if (strcmp(argv[i], "load_all") == 0) {
            ggml_backend_load_all();
        } else if (strcmp(argv[i], "vocab") == 0 && i + 1 < argc) {
            rc |= load(argv[++i], 1);
        } else if (strcmp(argv[i], "model") == 0 && i + 1 < argc) {
            rc |= load(argv[++i], 0);
        } else if (strcmp(argv[i], "report") == 0) {
            report();
        } else {
            fprintf(stderr, "unknown step %s\n", argv[i]);
            return 4;
        }
    }
    return rc;
}
