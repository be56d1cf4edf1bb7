/* SPDX-License-Identifier: Apache-2.0 */
#include "client/api_client.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ANSWER = 64 << 20 };

struct api_client {
    CURL *curl;
    char *endpoint;
    struct curl_slist *headers;
};

/* What arrives: whole for plain calls, cut into events for streams. */
struct inbox {
    struct buf body;
    CURL *curl;
    bool stream, done, stopped;
    int (*on_event)(void *ctx, const char *json, size_t n);
    void *ctx;
};

int api_client_open(struct api_client **out, const char *endpoint, const char *api_key,
                    struct err *e)
{
    *out = NULL;
    if (!endpoint)
        endpoint = getenv("QUIRE_ENDPOINT");
    if (!endpoint || !*endpoint)
        endpoint = getenv("XINFERENCE_ENDPOINT");
    if (!endpoint || !*endpoint)
        endpoint = "http://127.0.0.1:9997";
    if (strncmp(endpoint, "http://", 7) != 0 && strncmp(endpoint, "https://", 8) != 0)
        return err_set(e, Q_EINVAL, "the endpoint must start with http:// or https://, not \"%s\"",
                       endpoint);
    if (!api_key)
        api_key = getenv("QUIRE_API_KEY");
    struct api_client *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(e, Q_ENOMEM, "out of memory");
    curl_global_init(CURL_GLOBAL_DEFAULT);
    c->curl = curl_easy_init();
    c->endpoint = strdup(endpoint);
    c->headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (c->endpoint)
        for (size_t n = strlen(c->endpoint); n > 0 && c->endpoint[n - 1] == '/';)
            c->endpoint[--n] = '\0';
    if (api_key && *api_key) {
        struct buf h;
        buf_init(&h, 4096);
        buf_printf(&h, "Authorization: Bearer %s", api_key);
        c->headers = curl_slist_append(c->headers, buf_cstr(&h));
        buf_fini(&h);
    }
    if (!c->curl || !c->endpoint || !c->headers) {
        api_client_close(c);
        return err_set(e, Q_ENOMEM, "out of memory");
    }
    *out = c;
    return 0;
}

void api_client_close(struct api_client *c)
{
    if (!c)
        return;
    curl_easy_cleanup(c->curl);
    curl_slist_free_all(c->headers);
    free(c->endpoint);
    free(c);
}

const char *api_client_endpoint(const struct api_client *c)
{
    return c->endpoint;
}

/* Take whole events (ended by an empty line) out of the buffer. */
static void cut_events(struct inbox *in)
{
    for (;;) {
        char *start = in->body.data;
        char *end = start ? strstr(start, "\n") : NULL;
        if (!end || in->stopped)
            return;
        size_t n = (size_t)(end - start);
        size_t used = n + 1;
        if (n > 0 && start[n - 1] == '\r')
            n--;
        if (n >= 5 && memcmp(start, "data:", 5) == 0) {
            const char *p = start + 5;
            n -= 5;
            while (n > 0 && *p == ' ') {
                p++;
                n--;
            }
            if (n == 6 && memcmp(p, "[DONE]", 6) == 0)
                in->done = true;
            else if (in->on_event(in->ctx, p, n) != 0)
                in->stopped = true;
        }
        buf_shift(&in->body, used);
    }
}

static size_t on_data(char *p, size_t size, size_t n, void *ctx)
{
    struct inbox *in = ctx;
    if (buf_put(&in->body, p, size * n) != 0)
        return 0;
    long status = 0;
    curl_easy_getinfo(in->curl, CURLINFO_RESPONSE_CODE, &status);
    if (in->stream && status < 400)
        cut_events(in);
    return in->stopped ? 0 : size * n;
}

/* The server's own words from an error body. */
static int status_error(const struct inbox *in, long status, struct err *e)
{
    int code = status == 404                    ? Q_ENOTFOUND
               : status == 429 || status == 503 ? Q_EUNAVAILABLE
               : status < 500                   ? Q_EINVAL
                                                : Q_EINTERNAL;
    struct jv *j = NULL;
    int rc = 0;
    if (in->body.len > 0 && jv_parse(&j, in->body.data, in->body.len, 32, NULL) == 0) {
        const char *text = jv_str(jv_get(j, "detail"), NULL);
        if (!text)
            text = jv_str(jv_get(jv_get(j, "error"), "message"), NULL);
        if (!text)
            text = jv_str(jv_get(j, "error"), NULL);
        if (text)
            rc = err_set(e, code, "%s", text);
    }
    jv_free(j);
    return rc ? rc : err_set(e, code, "the server answered with HTTP status %ld", status);
}

static int perform(struct api_client *c, const char *method, const char *path,
                   const struct jv *body, struct inbox *in, struct err *e)
{
    struct buf url, text;
    buf_init(&url, 8192);
    buf_init(&text, MAX_ANSWER);
    buf_printf(&url, "%s%s", c->endpoint, path);
    if (body)
        jv_write(&text, body, 0);
    int rc = 0;
    if (url.failed || text.failed) {
        rc = err_set(e, Q_EINVAL, "the request is too large");
        goto done;
    }
    CURL *h = c->curl;
    in->curl = h;
    curl_easy_reset(h);
    curl_easy_setopt(h, CURLOPT_URL, url.data);
    curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, c->headers);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT, 10L);
    /* What is only read comes at once; launches and generation take their time. */
    if (!in->stream && strcmp(method, "GET") == 0)
        curl_easy_setopt(h, CURLOPT_TIMEOUT, 10L);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, in);
    if (body) {
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, text.data);
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)text.len);
    }
    CURLcode cc = curl_easy_perform(h);
    long status = 0;
    curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &status);
    if (in->stopped)
        rc = 0;
    else if (cc == CURLE_COULDNT_CONNECT)
        rc = err_set(e, Q_EUNAVAILABLE,
                     "no Quire answers at %s; start one with `quire start`, or name another with "
                     "--endpoint",
                     c->endpoint);
    else if (cc != CURLE_OK)
        rc = err_set(e, Q_EIO, "the connection to %s failed: %s", c->endpoint,
                     curl_easy_strerror(cc));
    else if (status >= 400)
        rc = status_error(in, status, e);
done:
    buf_fini(&text);
    buf_fini(&url);
    return rc;
}

int api_client_call(struct api_client *c, const char *method, const char *path,
                    const struct jv *body, struct jv **answer, struct err *e)
{
    if (answer)
        *answer = NULL;
    struct inbox in = {0};
    buf_init(&in.body, MAX_ANSWER);
    int rc = perform(c, method, path, body, &in, e);
    if (rc == 0 && answer && in.body.len > 0) {
        rc = jv_parse(answer, in.body.data, in.body.len, 64, e);
        if (rc != 0)
            err_prefix(e, rc, "%s does not speak Quire's API", c->endpoint);
    }
    buf_fini(&in.body);
    return rc;
}

int api_client_stream(struct api_client *c, const char *path, const struct jv *body,
                      int (*on_event)(void *ctx, const char *json, size_t n), void *ctx,
                      struct err *e)
{
    struct inbox in = {.stream = true, .on_event = on_event, .ctx = ctx};
    buf_init(&in.body, MAX_ANSWER);
    int rc = perform(c, "POST", path, body, &in, e);
    if (rc == 0 && !in.done && !in.stopped)
        rc = err_set(e, Q_EIO, "the answer broke off before its end");
    buf_fini(&in.body);
    return rc;
}

void api_client_escape(struct buf *b, const char *text)
{
    static const char hex[] = "0123456789ABCDEF";
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
            *p == '-' || *p == '.' || *p == '_' || *p == '~') {
            buf_putc(b, (char)*p);
        } else {
            char s[3] = {'%', hex[*p >> 4], hex[*p & 15]};
            buf_put(b, s, 3);
        }
    }
}
