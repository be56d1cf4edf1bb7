/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_launch.c - launch a model and watch it load. */
#include "base/clock.h"
#include "base/fs.h"
#include "client/cli.h"
#include "client/cli_common.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

/* Any other `--name value` goes to the engine as it is: None, booleans, numbers, JSON, text. */
static int extra_option(void *ctx, const char *name, const char *value, struct err *e)
{
    struct jv *body = ctx, *v = NULL;
    char *end;
    char key[128];
    if (strncmp(value, "--", 2) == 0)
        return err_set(e, Q_EINVAL, "--%s needs a value", name);
    snprintf(key, sizeof key, "%s", name);
    for (char *p = key; *p; p++)
        if (*p == '-')
            *p = '_';
    errno = 0;
    long long i = strtoll(value, &end, 10);
    if (strcasecmp(value, "none") == 0)
        v = jv_new_null();
    else if (strcasecmp(value, "true") == 0 || strcasecmp(value, "false") == 0)
        v = jv_new_bool(strcasecmp(value, "true") == 0);
    else if (*value && *end == '\0' && errno == 0)
        v = jv_new_int(i);
    else if ((*value >= '0' && *value <= '9') || *value == '.' || *value == '-') {
        double d = strtod(value, &end);
        if (*end == '\0')
            v = jv_new_real(d);
    } else if (*value == '{' || *value == '[') {
        if (jv_parse(&v, value, strlen(value), 32, NULL) != 0)
            v = NULL;
    }
    if (!v)
        v = jv_new_str(value);
    return jv_set(body, key, v);
}

struct bar {
    bool tty;
    int shown; /* percent last drawn, -1: nothing yet */
    char stage[24];
};

static void bar_draw(struct bar *b, double progress, const char *stage)
{
    int percent = (int)(progress * 100);
    if (percent < 0)
        percent = 0;
    if (percent > 100)
        percent = 100;
    if (percent == b->shown && strcmp(stage, b->stage) == 0)
        return;
    snprintf(b->stage, sizeof b->stage, "%s", stage);
    if (b->tty) {
        char line[41];
        for (int i = 0; i < 40; i++)
            line[i] = i < percent * 40 / 100 ? '#' : '.';
        line[40] = '\0';
        fprintf(stderr, "\r\033[K%-11s [%s] %3d %%", stage, line, percent);
    } else if (b->shown < 0 || percent / 25 != b->shown / 25) {
        fprintf(stderr, "%s %d %%\n", stage, percent);
    }
    b->shown = percent;
}

static void bar_end(const struct bar *b)
{
    if (b->tty && b->shown >= 0)
        fputc('\n', stderr);
}

/* State of all instances: 1 ready, 0 still loading, -1 failed (text in e). */
static int poll_instances(struct api_client *c, const char *uid, struct err *e)
{
    struct buf path;
    buf_init(&path, 4096);
    buf_puts(&path, "/v1/models/instances?model_uid=");
    api_client_escape(&path, uid);
    struct jv *list = NULL;
    int rc = api_client_call(c, "GET", buf_cstr(&path), NULL, &list, e);
    buf_fini(&path);
    if (rc != 0)
        return -1;
    int state = 1;
    if (jv_len(list) == 0) {
        err_set(e, Q_ECANCELLED, "the launch of %s was cancelled", uid);
        state = -1;
    }
    for (size_t i = 0; i < jv_len(list) && state >= 0; i++) {
        const struct jv *m = jv_at(list, i);
        const char *status = jv_str(jv_get(m, "status"), "");
        if (strcmp(status, "READY") == 0)
            continue;
        if (strcmp(status, "ERROR") != 0 && strcmp(status, "TERMINATED") != 0) {
            state = 0;
            continue;
        }
        const char *why = jv_str(jv_get(m, "error_message"), NULL);
        const struct jv *reps = jv_get(m, "replica_statuses");
        for (size_t k = 0; !why && k < jv_len(reps); k++)
            why = jv_str(jv_get(jv_at(reps, k), "error_message"), NULL);
        err_set(e, Q_EINTERNAL, "%s could not be launched: %s", uid, why ? why : status);
        state = -1;
    }
    jv_free(list);
    return state;
}

static void poll_progress(struct api_client *c, const char *uid, struct bar *bar)
{
    struct buf path;
    buf_init(&path, 4096);
    cli_model_path(&path, uid, "/progress");
    struct jv *p = NULL;
    struct err ignored;
    if (api_client_call(c, "GET", buf_cstr(&path), NULL, &p, &ignored) == 0)
        bar_draw(bar, jv_num(jv_get(p, "progress"), 0), jv_str(jv_get(p, "stage"), "loading"));
    jv_free(p);
    buf_fini(&path);
}

/* Ask whether to cancel; true when the model was cancelled. */
static bool ask_cancel(struct api_client *c, const char *uid)
{
    interrupted = 0;
    fprintf(stderr, "\nDo you want to cancel model launching? (y/[n]): ");
    char answer[16] = "";
    if (!isatty(STDIN_FILENO) || !fgets(answer, sizeof answer, stdin))
        snprintf(answer, sizeof answer, "y");
    if (answer[0] != 'y' && answer[0] != 'Y')
        return false;
    struct buf path;
    struct err e = {0};
    buf_init(&path, 4096);
    cli_model_path(&path, uid, "/cancel");
    if (api_client_call(c, "POST", buf_cstr(&path), NULL, NULL, &e) != 0)
        fprintf(stderr, "quire: %s\n", e.msg);
    buf_fini(&path);
    return true;
}

static int watch(struct api_client *c, const char *uid, struct err *e)
{
    struct bar bar = {.tty = isatty(STDERR_FILENO) != 0, .shown = -1};
    struct sigaction sa = {.sa_handler = on_interrupt}, old;
    sigaction(SIGINT, &sa, &old);
    int state;
    /* Quick at first, since a small model is there in a moment; then twice a second. */
    long pause_ms = 10;
    while ((state = poll_instances(c, uid, e)) == 0) {
        if (pause_ms >= 80)
            poll_progress(c, uid, &bar);
        struct timespec ts = {pause_ms / 1000, pause_ms % 1000 * 1000000};
        nanosleep(&ts, NULL);
        if (pause_ms < 500)
            pause_ms = pause_ms * 2 > 500 ? 500 : pause_ms * 2;
        if (interrupted && ask_cancel(c, uid)) {
            state = -1;
            err_set(e, Q_ECANCELLED, "the launch of %s was cancelled", uid);
            break;
        }
    }
    if (state > 0 && bar.shown >= 0)
        bar_draw(&bar, 1, "loaded");
    bar_end(&bar);
    sigaction(SIGINT, &old, NULL);
    return state > 0 ? 0 : Q_EINTERNAL;
}

struct launch_opts {
    struct cli_conn conn;
    const char *name, *type, *engine, *uid, *size, *format, *quant, *n_gpu, *worker_ip, *gpu_idx;
    const char *path, *pack_cache, *chat_template, *chat_template_language;
    int64_t replica, n_worker;
    bool trust;
};

static void set_str(struct jv *body, const char *key, const char *value)
{
    if (value)
        jv_set(body, key, jv_new_str(value));
}

static int gpu_list(struct jv *body, const char *text, struct err *e)
{
    struct jv *list = jv_new_array();
    for (const char *p = text; *p;) {
        char *end;
        long v = strtol(p, &end, 10);
        if (end == p || (*end && *end != ',')) {
            jv_free(list);
            return err_set(e, Q_EINVAL, "--gpu-idx wants numbers like 0,1, not \"%s\"", text);
        }
        jv_push(list, jv_new_int(v));
        p = *end ? end + 1 : end;
    }
    return jv_set(body, "gpu_idx", list);
}

/* The text travels, not the path: the file is on this machine. */
static int template_file(struct jv *body, const char *path, struct err *e)
{
    struct buf text;
    buf_init(&text, 1 << 20);
    int rc = fs_read(&text, path, e);
    struct jv *v = rc ? NULL : jv_new_strn(buf_cstr(&text), text.len);
    if (rc == 0 && !v)
        rc = err_set(e, Q_EINVAL, "%.300s is not valid UTF-8", path);
    if (rc == 0 && text.len == 0) {
        jv_free(v);
        rc = err_set(e, Q_EINVAL, "%.300s is empty", path);
    } else if (rc == 0) {
        rc = jv_set(body, "chat_template", v);
    }
    buf_fini(&text);
    return rc;
}

static int fill_body(struct jv *body, const struct launch_opts *o, struct err *e)
{
    char name_from_path[256];
    const char *name = o->name;
    if (!name && o->path) {
        const char *base = strrchr(o->path, '/');
        snprintf(name_from_path, sizeof name_from_path, "%s", base ? base + 1 : o->path);
        char *dot = strstr(name_from_path, ".gguf");
        if (dot)
            *dot = '\0';
        name = name_from_path;
    }
    set_str(body, "model_name", name);
    set_str(body, "model_type", o->type);
    set_str(body, "model_engine", o->engine);
    set_str(body, "model_uid", o->uid);
    set_str(body, "model_format", o->format);
    set_str(body, "quantization", o->quant);
    set_str(body, "worker_ip", o->worker_ip);
    set_str(body, "pack_cache", o->pack_cache);
    set_str(body, "chat_template_language", o->chat_template_language);
    if (o->size) {
        bool whole = strspn(o->size, "0123456789") == strlen(o->size) && *o->size;
        jv_set(body, "model_size_in_billions",
               whole ? jv_new_int(atoll(o->size)) : jv_new_str(o->size));
    }
    if (o->path) {
        /* A path is the worker's; one that exists here is sent absolute. */
        char full[PATH_MAX];
        set_str(body, "model_path", realpath(o->path, full) ? full : o->path);
    }
    jv_set(body, "replica", jv_new_int(o->replica));
    jv_set(body, "n_worker", jv_new_int(o->n_worker));
    if (!o->n_gpu || strcmp(o->n_gpu, "auto") == 0)
        set_str(body, "n_gpu", "auto");
    else if (strcasecmp(o->n_gpu, "none") == 0)
        jv_set(body, "n_gpu", jv_new_null());
    else
        jv_set(body, "n_gpu", jv_new_int(atoll(o->n_gpu)));
    int rc = o->chat_template ? template_file(body, o->chat_template, e) : 0;
    return rc == 0 && o->gpu_idx ? gpu_list(body, o->gpu_idx, e) : rc;
}

int cli_launch(int argc, char **argv)
{
    struct launch_opts o = {.type = "LLM", .replica = 1, .n_worker = 1};
    const struct opt opts[] = {
        {"model-name", "n", OPT_STR, &o.name, "NAME", "name in the catalogue (see registrations)",
         0, 0},
        {"size-in-billions", "s", OPT_STR, &o.size, "SIZE", "parameters in billions: 7, 0.5", 0, 0},
        {"model-format", "f", OPT_STR, &o.format, "FORMAT", "ggufv2", 0, 0},
        {"quantization", "q", OPT_STR, &o.quant, "QUANT", "q4_k_m, q8_0 ...", 0, 0},
        {"model-engine", "en", OPT_STR, &o.engine, "ENGINE",
         "optional; quire is ours, other names are taken as wishes", 0, 0},
        {"model-uid", "u", OPT_STR, &o.uid, "UID", "name for requests (default: the model's)", 0,
         0},
        {"model-type", "t", OPT_STR, &o.type, "TYPE", "LLM", 0, 0},
        {"model-path", "mp", OPT_STR, &o.path, "FILE",
         "a GGUF file on the worker; nothing need be registered", 0, 0},
        {"replica", "r", OPT_INT, &o.replica, "N", "complete copies that share the load", 1, 1024},
        {"n-worker", NULL, OPT_INT, &o.n_worker, "N", "split the layers over N workers", 1, 1024},
        {"worker-ip", NULL, OPT_STR, &o.worker_ip, "ADDRESS", "only on these workers", 0, 0},
        {"n-gpu", NULL, OPT_STR, &o.n_gpu, "N", "GPUs per worker: auto, none or a number", 0, 0},
        {"gpu-idx", NULL, OPT_STR, &o.gpu_idx, "LIST", "which GPUs: 0,1", 0, 0},
        {"pack-cache", NULL, OPT_STR, &o.pack_cache, "MODE",
         "packed weights in files beside the model: auto, on, off or verify", 0, 0},
        {"chat-template", NULL, OPT_STR, &o.chat_template, "FILE",
         "a chat template in place of the model's: Jinja, or Go's as Ollama has them", 0, 0},
        {"chat-template-language", NULL, OPT_STR, &o.chat_template_language, "NAME",
         "jinja or go, where the text does not tell", 0, 0},
        {"trust-remote-code", NULL, OPT_BOOL, &o.trust, "BOOL", "accepted, without effect", 0, 0},
        CLI_CONN_OPTS(o.conn)};
    const struct opts_cmd cmd = {
        "quire launch",
        "[--name value ...]",
        "Launch a model; further --name value pairs go to the engine (--n_ctx 8192).",
        "  quire launch --model-name smollm2\n"
        "  quire launch --model-name qwen2.5-instruct --size-in-billions 7 --quantization q4_k_m "
        "--model-path ~/qwen.gguf\n"
        "  quire launch --model-path ./any-file.gguf --model-uid mine --n-worker 2",
        opts,
        NUM_COUNT(opts)};
    struct err e = {0};
    struct jv *body = jv_new_object();
    struct jv *answer = NULL;
    struct api_client *c = NULL;
    int n_pos;
    int rc = opts_parse(&cmd, argc, argv, &n_pos, extra_option, body, &e);
    if (rc == OPTS_RUN && !o.name && n_pos > 0)
        o.name = argv[1];
    if (rc == OPTS_RUN && !o.name && !o.path)
        rc = err_set(&e, Q_EINVAL, "which model? Name it with --model-name or give --model-path");
    if (rc == OPTS_RUN)
        rc = fill_body(body, &o, &e);
    if (rc != OPTS_RUN) {
        rc = rc == OPTS_HELP ? 0 : cli_usage(&cmd, &e);
        goto done;
    }
    if (api_client_open(&c, o.conn.endpoint, o.conn.api_key, &e) != 0 ||
        api_client_call(c, "POST", "/v1/models?wait_ready=false", body, &answer, &e) != 0) {
        rc = cli_fail(&e);
        goto done;
    }
    const char *uid = jv_str(jv_get(answer, "model_uid"), NULL);
    if (!uid) {
        err_set(&e, Q_EINTERNAL, "the server accepted the launch but named no model UID");
        rc = cli_fail(&e);
        goto done;
    }
    if (watch(c, uid, &e) != 0) {
        rc = cli_fail(&e);
        goto done;
    }
    fprintf(stderr, "Model uid: %s\n", uid);
    rc = 0;
done:
    jv_free(answer);
    jv_free(body);
    api_client_close(c);
    return rc;
}
