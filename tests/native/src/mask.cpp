// The scan of attention masks against one entry at a time: random rows, every offset, dense and empty ones.

#include "ggml-cpu/ggml-cpu-mask.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

int main(int argc, char ** argv) {
    std::mt19937 random(argc > 1 ? atoi(argv[1]) : 1);
    const uint16_t dead   = 0xfc00;
    const uint16_t live[] = { 0x0000, 0x8000, 0x7c00, 0xfbff, 0xfc01, 0x00fc, 0xbc00 };
    long n_checked = 0;
    for (int round = 0; round < 400; ++round) {
        const int n    = 1 + random() % 300;
        const int rows = 1 + random() % 4;
        const int odds = round % 5 == 0 ? 0 : 1 + random() % 200; // of a live entry; none in some rounds
        // of exactly that size: one byte too far is noticed by the sanitizer
        std::vector<ggml_fp16_t> mask((size_t) n*rows, dead);
        for (auto & entry : mask) {
            if (odds && (int) (random() % 200) < odds/20) {
                entry = live[random() % (sizeof(live)/sizeof(live[0]))];
            }
        }
        for (int row = 0; row < rows; ++row) {
            const ggml_fp16_t * entries = mask.data() + (size_t) row*n;
            for (int i = 0; i <= n; ++i) {
                int expected = i;
                while (expected < n && entries[expected] == dead) {
                    expected++;
                }
                if (ggml_mask_next(entries, i, n) != expected) {
                    fprintf(stderr, "row of %d, from %d: %lld, not %d\n", n, i, (long long) ggml_mask_next(entries, i, n), expected);
                    return 1;
                }
                n_checked++;
            }
        }
        for (int i = 0; i < n; i += 1 + (int) (random() % 7)) {
            const int width = 1 + random() % (n - i);
            bool expected = true;
            for (int row = 0; row < rows; ++row) {
                for (int k = i; k < i + width; ++k) {
                    expected = expected && mask[(size_t) row*n + k] == dead;
                }
            }
            if (ggml_mask_dead((const char *) mask.data(), n*sizeof(ggml_fp16_t), rows, i, width) != expected) {
                fprintf(stderr, "%d rows of %d, %d from %d\n", rows, n, width, i);
                return 1;
            }
            n_checked++;
        }
    }
    printf("ok %ld\n", n_checked);
    return 0;
}
