/* SPDX-License-Identifier: Apache-2.0 */
/* replay.c - run a fuzz target over its seed corpus: every past finding stays a test. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int main(int argc, char **argv)
{
    int n_run = 0;
    DIR *d = argc > 1 ? opendir(argv[1]) : NULL;
    if (!d) {
        fprintf(stderr, "no corpus folder %s\n", argc > 1 ? argv[1] : "(none given)");
        return 1;
    }
    struct dirent *de;
    while ((de = readdir(d)) != NULL) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", argv[1], de->d_name);
        FILE *f = de->d_name[0] == '.' ? NULL : fopen(path, "rb");
        if (!f)
            continue;
        size_t cap = 1 << 20;
        uint8_t *data = malloc(cap);
        if (!data)
            return 1;
        size_t n = fread(data, 1, cap, f);
        fclose(f);
        /* An exact-size copy, so that a sanitizer sees reads past the end. */
        uint8_t *exact = malloc(n ? n : 1);
        if (!exact)
            return 1;
        memcpy(exact, data, n);
        free(data);
        LLVMFuzzerTestOneInput(exact, n);
        free(exact);
        n_run++;
    }
    closedir(d);
    printf("%d seeds\n", n_run);
    return n_run > 0 ? 0 : 1;
}
