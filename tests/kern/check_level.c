/* SPDX-License-Identifier: Apache-2.0 */
/* Which level kern_get chooses, and what it says about a level that cannot be. The level in
 * QUIRE_CPU must be the best there is if the first argument is "best". */
#include "quant/kern.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            printf("%s:%d: wrong: %s\n", __FILE__, __LINE__, #cond);                               \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static const char *const names[KERN_LEVELS] = {"ref", "avx2", "avx512", "neon"};

int main(int argc, char **argv)
{
    const struct kern *k, *best = NULL;
    struct err e = {0};
    char first[32];
    snprintf(first, sizeof first, "%s", getenv("QUIRE_CPU") ? getenv("QUIRE_CPU") : "");
    for (unsigned i = 0; i < KERN_LEVELS; i++) {
        const struct kern *at = kern_at_level((enum kern_level)i);
        CHECK(setenv("QUIRE_CPU", names[i], 1) == 0);
        int rc = kern_get(&k, &e);
        if (at) {
            CHECK(rc == 0 && k == at && at->level == i && strcmp(at->name, names[i]) == 0);
            CHECK(at->vec && at->find(QT_Q4_0) && at->find(QT_F32));
            best = at;
        } else {
            CHECK(rc == Q_EINVAL && strstr(e.msg, names[i]) && strstr(e.msg, "ref"));
        }
    }
    CHECK(kern_at_level(KERN_REF) && !kern_at_level(KERN_LEVELS));
#if defined(__x86_64__)
    CHECK(!kern_at_level(KERN_NEON));
#else
    CHECK(!kern_at_level(KERN_AVX2) && !kern_at_level(KERN_AVX512));
#endif
    CHECK(setenv("QUIRE_CPU", "fastest", 1) == 0);
    CHECK(kern_get(&k, &e) == Q_EINVAL && strstr(e.msg, "fastest") && strstr(e.msg, " or "));
    CHECK(setenv("QUIRE_CPU", "", 1) == 0);
    CHECK(kern_get(&k, &e) == 0 && k == best);
    CHECK(unsetenv("QUIRE_CPU") == 0);
    CHECK(kern_get(&k, &e) == 0 && k == best);
    if (argc > 1 && strcmp(argv[1], "best") == 0)
        CHECK(strcmp(best->name, first) == 0);
    printf("best level: %s\n", best->name);
    return 0;
}
