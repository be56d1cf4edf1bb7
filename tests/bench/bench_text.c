/* SPDX-License-Identifier: Apache-2.0 */
/* bench_text MODEL FILE [ROUNDS]: milliseconds to open a vocabulary, megabytes of text a second
 * to encode and decode on one core. One line of JSON a round; tests/bench/text.py compares. */
#include "base/clock.h"
#include "base/fs.h"
#include "worker/text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>

static double since(uint64_t from_ns)
{
    return (double)(clock_mono_ns() - from_ns) / 1e9;
}

int main(int argc, char **argv)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    struct buf text, back;
    struct token_list ids = {0};
    int rounds = argc > 3 ? atoi(argv[3]) : 5;
    if (argc < 3) {
        fprintf(stderr, "usage: bench_text MODEL FILE [ROUNDS]\n");
        return 2;
    }
    buf_init(&text, 1 << 30);
    buf_init(&back, 1 << 30);
    int rc = fs_read(&text, argv[2], &e);
    for (int i = 0; i < rounds && rc == 0; i++) {
        uint64_t from = clock_mono_ns();
        rc = tokenizer_open_path(&t, argv[1], &e);
        double open_s = since(from), mb = (double)text.len / 1e6;
        if (rc)
            break;
        ids.n = 0;
        from = clock_mono_ns();
        rc = tokenizer_encode(t, text.data, text.len, false, false, &ids, &e);
        double first_s = since(from);
        ids.n = 0;
        from = clock_mono_ns();
        if (rc == 0)
            rc = tokenizer_encode(t, text.data, text.len, false, false, &ids, &e);
        double encode_s = since(from);
        from = clock_mono_ns();
        buf_clear(&back);
        if (rc == 0)
            rc = tokenizer_decode(t, ids.ids, ids.n, false, &back, &e);
        printf("{\"open_ms\":%.1f,\"first_mb_s\":%.1f,\"encode_mb_s\":%.1f,\"decode_mb_s\":%.1f,"
               "\"tokens\":%zu}\n",
               open_s * 1e3, mb / first_s, mb / encode_s, mb / since(from), ids.n);
        tokenizer_close(t);
        t = NULL;
    }
    if (rc)
        fprintf(stderr, "bench_text: %s\n", e.msg);
    free(ids.ids);
    buf_fini(&text);
    buf_fini(&back);
    return rc ? 1 : 0;
}
