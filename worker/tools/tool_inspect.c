/* SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"
#include "base/num.h"
#include "base/opts.h"
#include "base/utf8.h"
#include "quant/gguf.h"
#include "quant/kern.h"
#include "worker/model/model.h"
#include "worker/tools/tools.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHOW_ELEMENTS = 6, SHOW_BYTES = 60, MAX_TYPES = 64, MAX_SANE = 1 << 24 };

/* What a machine needs, from metadata and tensor sizes alone. Zero: the file does not say. */
struct needs {
    uint64_t n_params, weight_bytes;
    uint64_t layer_bytes, n_layers; /* largest layer */
    uint64_t context, kv_per_token; /* keys and values in f16, all layers */
    struct {
        const struct qtype_info *type;
        uint64_t tensors, bytes;
    } types[MAX_TYPES];
    size_t n_types;
    struct err why_not; /* why the engine refuses the model; no text: it does not */
};

/* A number of the architecture: "<arch>.<name>", or element `i` where it is an array.
 * Absent or absurd values count as 0. */
static uint64_t arch_number(const struct gguf *g, const char *arch, const char *name, uint64_t i)
{
    char key[160];
    uint64_t v = 0;
    snprintf(key, sizeof key, "%s.%s", arch, name);
    const struct gguf_kv *kv = gguf_find(g, key);
    if (kv && kv->kind == GGUF_ARRAY)
        v = i < kv->count ? gguf_arr_u64(kv, i) : 0;
    else if (gguf_get_u64(g, key, &v, NULL) != 0)
        v = 0;
    return v <= MAX_SANE ? v : 0;
}

static void count_types(struct needs *n, const struct gguf_tensor *t)
{
    size_t k = 0;
    while (k < n->n_types && n->types[k].type != t->type)
        k++;
    if (k == MAX_TYPES)
        return;
    if (k == n->n_types)
        n->types[n->n_types++].type = t->type;
    n->types[k].tensors++;
    n->types[k].bytes += t->bytes;
}

/* N of "blk.N.", or -1. */
static int64_t layer_of(const struct gguf_tensor *t)
{
    if (t->name.n < 6 || memcmp(t->name.p, "blk.", 4) != 0)
        return -1;
    int64_t layer = 0;
    size_t i = 4;
    for (; i < t->name.n && t->name.p[i] >= '0' && t->name.p[i] <= '9' && layer < MAX_SANE; i++)
        layer = layer * 10 + (t->name.p[i] - '0');
    return i > 4 && i < t->name.n && t->name.p[i] == '.' ? layer : -1;
}

static int find_needs(const struct gguf *g, const char *arch, struct needs *n, struct err *e)
{
    memset(n, 0, sizeof *n);
    n->n_layers = arch_number(g, arch, "block_count", 0);
    n->context = arch_number(g, arch, "context_length", 0);
    if (n->n_layers > gguf_n_tensors(g)) /* every layer has tensors: the count is wrong */
        n->n_layers = 0;
    uint64_t *layers = calloc((size_t)n->n_layers + 1, sizeof *layers);
    if (!layers)
        return err_set(e, Q_ENOMEM, "out of memory");
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        n->n_params += t->bytes / t->type->block_bytes * t->type->block_len;
        n->weight_bytes += t->bytes;
        count_types(n, t);
        int64_t layer = layer_of(t);
        if (layer >= 0 && (uint64_t)layer < n->n_layers) {
            layers[layer] += t->bytes;
            n->layer_bytes = NUM_MAX(n->layer_bytes, layers[layer]);
        }
    }
    free(layers);
    uint64_t width = arch_number(g, arch, "embedding_length", 0);
    for (uint64_t l = 0; l < n->n_layers; l++) {
        uint64_t heads = arch_number(g, arch, "attention.head_count", l), kv_heads = heads;
        char key[160];
        snprintf(key, sizeof key, "%s.attention.head_count_kv", arch);
        if (gguf_find(g, key))
            kv_heads = arch_number(g, arch, "attention.head_count_kv", l);
        uint64_t dim = heads ? width / heads : 0;
        uint64_t k = arch_number(g, arch, "attention.key_length", l);
        uint64_t v = arch_number(g, arch, "attention.value_length", l);
        uint64_t bytes = kv_heads * ((k ? k : dim) + (v ? v : dim)) * 2; /* below 2^50 */
        if (n->kv_per_token > UINT64_MAX / 2 - bytes)
            break;
        n->kv_per_token += bytes;
    }
    return 0;
}

/* ---- for a program --------------------------------------------------------------------- */

static void json_element(struct buf *b, const struct gguf_kv *kv, uint64_t i)
{
    switch (kv->elem) {
    case GGUF_BOOL:
        jw_bool(b, gguf_arr_u64(kv, i) != 0);
        break;
    case GGUF_F32:
    case GGUF_F64:
        jw_num(b, gguf_arr_f64(kv, i));
        break;
    case GGUF_U64:
        jw_uint(b, gguf_arr_u64(kv, i));
        break;
    default:
        jw_int(b, gguf_arr_i64(kv, i));
        break;
    }
}

static void json_value(struct buf *b, const struct gguf_kv *kv)
{
    const unsigned char *cursor = NULL;
    uint64_t n = kv->kind == GGUF_ARRAY ? NUM_MIN(kv->count, (uint64_t)SHOW_ELEMENTS) : 1;
    if (kv->kind == GGUF_ARRAY) {
        jw_obj(b);
        jw_key(b, "count");
        jw_uint(b, kv->count);
        jw_key(b, "first");
        jw_arr(b);
    }
    for (uint64_t i = 0; i < n; i++) {
        struct gguf_str s;
        if (kv->elem == GGUF_STRING) {
            cursor = gguf_arr_next_str(kv, cursor, &s);
            jw_strn(b, s.p, s.n);
        } else {
            json_element(b, kv, i);
        }
    }
    if (kv->kind == GGUF_ARRAY) {
        jw_end_arr(b);
        jw_end_obj(b);
    }
}

static void json_needs(struct buf *b, const struct needs *n)
{
    jw_key(b, "types");
    jw_obj(b);
    for (size_t i = 0; i < n->n_types; i++) {
        jw_key(b, n->types[i].type->name);
        jw_obj(b);
        jw_kint(b, "tensors", (int64_t)n->types[i].tensors);
        jw_kint(b, "bytes", (int64_t)n->types[i].bytes);
        jw_kbool(b, "runs", kern_at_level(KERN_REF)->find(n->types[i].type->id) != NULL);
        jw_end_obj(b);
    }
    jw_end_obj(b);
    jw_key(b, "needs");
    jw_obj(b);
    jw_kint(b, "parameters", (int64_t)n->n_params);
    jw_kint(b, "weight_bytes", (int64_t)n->weight_bytes);
    jw_kint(b, "layers", (int64_t)n->n_layers);
    jw_kint(b, "largest_layer_bytes", (int64_t)n->layer_bytes);
    jw_kint(b, "context_length", (int64_t)n->context);
    jw_kint(b, "kv_bytes_per_token", (int64_t)n->kv_per_token);
    jw_end_obj(b);
    jw_kbool(b, "can_run", !n->why_not.msg[0]);
    jw_kstr(b, "why_not", n->why_not.msg[0] ? n->why_not.msg : NULL);
}

static int print_json(const struct gguf *g, const char *path, const char *arch,
                      const struct needs *n, struct err *e)
{
    struct buf b;
    buf_init(&b, (size_t)1 << 30);
    jw_obj(&b);
    jw_kstr(&b, "file", path);
    jw_kint(&b, "bytes", (int64_t)gguf_file_bytes(g));
    jw_kint(&b, "version", gguf_version(g));
    jw_kstr(&b, "architecture", arch[0] ? arch : NULL);
    jw_kint(&b, "data_offset", (int64_t)gguf_data_offset(g));
    jw_key(&b, "metadata");
    jw_obj(&b);
    for (size_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        char *key = strndup(kv->key.p, kv->key.n);
        jw_key(&b, key ? key : "?");
        free(key);
        json_value(&b, kv);
    }
    jw_end_obj(&b);
    jw_key(&b, "tensors");
    jw_arr(&b);
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        jw_obj(&b);
        jw_key(&b, "name");
        jw_strn(&b, t->name.p, t->name.n);
        jw_kstr(&b, "type", t->type->name);
        jw_key(&b, "shape");
        jw_arr(&b);
        for (uint32_t d = 0; d < t->n_dims; d++)
            jw_uint(&b, t->dims[d]);
        jw_end_arr(&b);
        jw_kint(&b, "bytes", (int64_t)t->bytes);
        jw_kint(&b, "offset", (int64_t)t->file_offset);
        jw_end_obj(&b);
    }
    jw_end_arr(&b);
    json_needs(&b, n);
    jw_end_obj(&b);
    buf_putc(&b, '\n');
    int rc = b.failed ? err_set(e, Q_ENOMEM, "the answer is too large") : 0;
    if (rc == 0)
        fwrite(b.data, 1, b.len, stdout);
    buf_fini(&b);
    return rc;
}

/* ---- for a person ---------------------------------------------------------------------- */

/* Text from the file, made safe for a terminal: one line, no control bytes, bounded. */
static void print_text(struct gguf_str s, size_t most)
{
    size_t i = 0, shown = 0;
    while (i < s.n && shown < most) {
        uint32_t cp;
        size_t k = utf8_decode(s.p + i, s.n - i, &cp);
        if (k == 0) {
            fputc('?', stdout);
            k = 1;
        } else if (cp == '\n') {
            fputs("\\n", stdout);
        } else if (cp < 32 || (cp >= 127 && cp < 160)) {
            fputc(' ', stdout);
        } else {
            fwrite(s.p + i, 1, k, stdout);
        }
        i += k;
        shown++;
    }
    if (i < s.n)
        printf("... (%zu bytes)", s.n);
}

static void print_value(const struct gguf_kv *kv)
{
    const unsigned char *cursor = NULL;
    bool array = kv->kind == GGUF_ARRAY;
    uint64_t n = array ? NUM_MIN(kv->count, (uint64_t)SHOW_ELEMENTS) : 1;
    if (array)
        printf("[%" PRIu64 "] ", kv->count);
    for (uint64_t i = 0; i < n; i++) {
        struct gguf_str s;
        if (i > 0)
            fputs(", ", stdout);
        switch (kv->elem) {
        case GGUF_STRING:
            cursor = gguf_arr_next_str(kv, cursor, &s);
            fputs(array ? "\"" : "", stdout);
            print_text(s, array ? 16 : SHOW_BYTES);
            fputs(array ? "\"" : "", stdout);
            break;
        case GGUF_BOOL:
            fputs(gguf_arr_u64(kv, i) ? "true" : "false", stdout);
            break;
        case GGUF_F32:
        case GGUF_F64:
            printf("%g", gguf_arr_f64(kv, i));
            break;
        case GGUF_U64:
            printf("%" PRIu64, gguf_arr_u64(kv, i));
            break;
        default:
            printf("%" PRId64, gguf_arr_i64(kv, i));
            break;
        }
    }
    if (n < kv->count && array)
        fputs(", ...", stdout);
    fputc('\n', stdout);
}

static const char *human(uint64_t bytes, char out[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    size_t u = 0;
    for (; v >= 1024 && u + 1 < NUM_COUNT(units); u++)
        v /= 1024;
    snprintf(out, 32, u ? "%.1f %s" : "%.0f %s", v, units[u]);
    return out;
}

static void print_needs(const struct needs *n)
{
    char a[32], b[32];
    printf("\nStorage types\n");
    for (size_t i = 0; i < n->n_types; i++)
        printf("  %-8s %6" PRIu64 " tensors  %10s%s\n", n->types[i].type->name, n->types[i].tensors,
               human(n->types[i].bytes, a),
               kern_at_level(KERN_REF)->find(n->types[i].type->id)
                   ? ""
                   : "   no matrix kernel: this model cannot run here yet");
    printf("\nNeeded to run it\n");
    printf("  parameters   %" PRIu64 "\n", n->n_params);
    printf("  weights      %s", human(n->weight_bytes, a));
    if (n->layer_bytes)
        printf(" (%" PRIu64 " layers, the largest %s)", n->n_layers, human(n->layer_bytes, b));
    printf("\n");
    if (n->kv_per_token) {
        printf("  KV cache     %s a token in f16", human(n->kv_per_token, a));
        if (n->context && n->kv_per_token < UINT64_MAX / n->context)
            printf(", %s for the full context of %" PRIu64, human(n->kv_per_token * n->context, b),
                   n->context);
        printf("\n");
    }
    if (n->why_not.msg[0])
        printf("\nIt cannot be run: %s\n", n->why_not.msg);
}

static void print_human(const struct gguf *g, const char *path, const char *arch,
                        const struct needs *n)
{
    char size[32], shape[100];
    printf("%s: GGUF v%u, %s%s%s\n", path, gguf_version(g), human(gguf_file_bytes(g), size),
           arch[0] ? ", architecture " : "", arch);
    printf("\nMetadata (%zu)\n", gguf_n_kv(g));
    for (size_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        printf("  ");
        print_text(kv->key, SHOW_BYTES);
        printf("%*s ", kv->key.n < 42 ? 42 - (int)kv->key.n : 0, "");
        print_value(kv);
    }
    printf("\nTensors (%zu)\n", gguf_n_tensors(g));
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        size_t at = 0;
        for (uint32_t d = 0; d < t->n_dims; d++)
            at += (size_t)snprintf(shape + at, sizeof shape - at, "%s%" PRIu64, d ? " x " : "",
                                   t->dims[d]);
        printf("  ");
        print_text(t->name, SHOW_BYTES);
        printf("%*s %-8s %-22s %s\n", t->name.n < 34 ? 34 - (int)t->name.n : 0, "", t->type->name,
               shape, human(t->bytes, size));
    }
    print_needs(n);
}

static int inspect(const char *name, bool json, struct err *e)
{
    struct gguf *g = NULL;
    struct needs n;
    struct gguf_str s;
    char *path = NULL, arch[64] = "";
    int rc = tools_model_path(name, &path, e);
    if (rc == 0)
        rc = gguf_open(&g, path, e);
    if (rc == 0) {
        if (gguf_get_str(g, "general.architecture", &s, NULL) == 0 && s.n < sizeof arch &&
            utf8_valid(s.p, s.n, NULL)) {
            memcpy(arch, s.p, s.n);
            for (size_t i = 0; i < s.n; i++)
                arch[i] = (unsigned char)arch[i] < 32 || arch[i] == 127 ? '?' : arch[i];
        }
        rc = find_needs(g, arch, &n, e);
    }
    if (rc == 0) {
        struct model *m = NULL;
        if (model_open(&m, path, &n.why_not) == 0)
            n.why_not.msg[0] = '\0';
        model_close(m);
    }
    if (rc == 0 && json)
        rc = print_json(g, path, arch, &n, e);
    else if (rc == 0)
        print_human(g, path, arch, &n);
    if (rc == 0 && fflush(stdout) != 0)
        rc = err_sys(e, "cannot write the output");
    gguf_close(g);
    free(path);
    return rc;
}

int tool_inspect(int argc, char **argv)
{
    bool json = false;
    const struct opt opts[] = {
        {"json", NULL, OPT_FLAG, &json, NULL, "one JSON object instead of a listing", 0, 0}};
    const struct opts_cmd cmd = {
        "quire inspect",
        "FILE",
        "Show what a GGUF file holds: metadata, tensors, and the memory that running it needs. "
        "A damaged file is refused with the reason and the byte offset.",
        "  quire inspect model.gguf\n  quire inspect model.gguf --json | jq .needs",
        opts,
        NUM_COUNT(opts)};
    struct err e = {0};
    int n_pos, rc = opts_parse(&cmd, argc, argv, &n_pos, NULL, NULL, &e);
    if (rc == OPTS_HELP)
        return 0;
    if (rc == OPTS_RUN && n_pos != 1)
        rc = err_set(&e, Q_EINVAL, n_pos ? "one file at a time" : "FILE is missing");
    if (rc != OPTS_RUN) {
        fprintf(stderr, "quire inspect: %s\n", e.msg);
        return 2;
    }
    if (inspect(argv[1], json, &e) == 0)
        return 0;
    fprintf(stderr, "quire inspect: %s\n", e.msg);
    return 1;
}
