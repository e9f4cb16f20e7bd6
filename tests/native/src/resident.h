#pragma once

// Which pages take memory, as the system says it. Linux.

#include "check.h"

#include <cstring>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

inline size_t page_size() { return (size_t) sysconf(_SC_PAGESIZE); }
inline size_t pages_of(size_t size) { return (size + page_size() - 1)/page_size(); }

inline bool is_mapped(const void * at) {
    unsigned char one;
    return mincore((void *) ((uintptr_t) at/page_size()*page_size()), 1, &one) == 0;
}

// Page by page. A page that was only read counts too: the shared page of zeros is there then.
inline std::vector<bool> resident(const void * base, size_t size) {
    CHECK((uintptr_t) base % page_size() == 0, "not at a page: %p", base);
    std::vector<unsigned char> found(pages_of(size));
    CHECK(found.empty() || mincore((void *) base, size, found.data()) == 0, "mincore");
    std::vector<bool> res;
    for (const unsigned char page : found) {
        res.push_back(page & 1);
    }
    return res;
}

// A field of the line of /proc/self/smaps that `name` begins, for the mapping that holds the address.
inline std::string smaps(const void * at, const std::string & name) {
    FILE * file = fopen("/proc/self/smaps", "r");
    CHECK(file, "no /proc/self/smaps");
    char line[4096];
    bool here = false;
    std::string res;
    while (res.empty() && fgets(line, sizeof(line), file)) {
        unsigned long begin, end;
        if (sscanf(line, "%lx-%lx ", &begin, &end) == 2) {
            here = begin <= (uintptr_t) at && (uintptr_t) at < end;
        } else if (here && strncmp(line, name.c_str(), name.size()) == 0) {
            res = line + name.size();
        }
    }
    fclose(file);
    CHECK(!res.empty(), "no %s for %p", name.c_str(), at);
    return res;
}

// Bytes of memory that the process has now.
inline size_t resident_of_process() {
    FILE * file = fopen("/proc/self/smaps_rollup", "r");
    CHECK(file, "no /proc/self/smaps_rollup");
    char line[4096];
    size_t kib = 0;
    while (kib == 0 && fgets(line, sizeof(line), file)) {
        sscanf(line, "Rss: %zu kB", &kib);
    }
    fclose(file);
    CHECK(kib > 0, "no Rss");
    return kib*1024;
}
