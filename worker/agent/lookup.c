/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent/lookup.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIMEOUT_MS 3000
#define MAX_ANSWER (64 << 10)

int lookup_parse(struct lookup_url *u, const char *endpoint, struct err *e)
{
    memset(u, 0, sizeof *u);
    if (strncasecmp(endpoint, "http://", 7) != 0)
        return err_set(e, Q_EINVAL, "the endpoint must be http://HOST:PORT, not \"%.100s\"",
                       endpoint);
    const char *p = endpoint + 7;
    size_t n = strcspn(p, "/?#");
    const char *path = p + n;
    const char *host = p, *colon = NULL;
    size_t n_host = n;
    if (*p == '[') { /* IPv6 */
        const char *close = memchr(p, ']', n);
        if (!close)
            return err_set(e, Q_EINVAL, "no ] in the endpoint \"%.100s\"", endpoint);
        host = p + 1;
        n_host = (size_t)(close - host);
        colon = close + 1 < p + n ? close + 1 : NULL;
    } else {
        colon = memchr(p, ':', n);
        n_host = colon ? (size_t)(colon - p) : n;
    }
    size_t n_port = colon ? (size_t)(p + n - colon - 1) : 0;
    if (n_host == 0 || n_host >= sizeof u->host || (colon && *colon != ':') ||
        n_port >= sizeof u->port || strcspn(path, "?#\r\n ") != strlen(path) ||
        strlen(path) >= sizeof u->path || memchr(host, '@', n_host))
        return err_set(e, Q_EINVAL, "the endpoint \"%.100s\" is not http://HOST:PORT", endpoint);
    memcpy(u->host, host, n_host);
    memcpy(u->port, n_port ? colon + 1 : "80", n_port ? n_port : 2);
    char *end;
    long port = strtol(u->port, &end, 10);
    if (*end || port < 1 || port > 65535)
        return err_set(e, Q_EINVAL, "bad port in the endpoint \"%.100s\"", endpoint);
    snprintf(u->path, sizeof u->path, "%s", path);
    for (n = strlen(u->path); n > 0 && u->path[n - 1] == '/'; n--)
        u->path[n - 1] = '\0';
    return 0;
}

static int wait_fd(int fd, short events, uint64_t end_ms)
{
    for (;;) {
        uint64_t now = clock_mono_ms();
        if (now >= end_ms)
            return Q_ETIMEOUT;
        struct pollfd p = {.fd = fd, .events = events};
        int n = poll(&p, 1, (int)(end_ms - now));
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return Q_EIO;
    }
}

static int resolve(struct addrinfo **list, const struct lookup_url *u, int type, struct err *e)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = type};
    int rc = getaddrinfo(u->host, u->port, &hints, list);
    if (rc != 0)
        return err_set(e, Q_EUNAVAILABLE, "cannot resolve %s: %s", u->host, gai_strerror(rc));
    return 0;
}

static int dial(const struct lookup_url *u, uint64_t end_ms, int *out, struct err *e)
{
    struct addrinfo *list;
    int rc = resolve(&list, u, SOCK_STREAM, e);
    if (rc != 0)
        return rc;
    rc = err_set(e, Q_EUNAVAILABLE, "no address for %s", u->host);
    for (struct addrinfo *a = list; a; a = a->ai_next) {
        int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
            continue;
        int why = 0;
        socklen_t len = sizeof why;
        if (connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
            why = errno;
            if (why == EINPROGRESS) {
                why = wait_fd(fd, POLLOUT, end_ms) != 0 ? ETIMEDOUT : 0;
                if (why == 0)
                    getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &len);
            }
        }
        if (why == 0) {
            *out = fd;
            freeaddrinfo(list);
            return 0;
        }
        close(fd);
        rc = err_set(e, Q_EUNAVAILABLE, "cannot connect to %s port %s: %s", u->host, u->port,
                     strerror(why));
    }
    freeaddrinfo(list);
    return rc;
}

/* The whole answer up to the peer's close; HTTP/1.0 is asked for, so nothing is chunked. */
static int talk(int fd, const struct lookup_url *u, uint64_t end_ms, struct buf *answer,
                struct err *e)
{
    char request[700];
    bool v6 = strchr(u->host, ':') != NULL;
    int n = snprintf(request, sizeof request,
                     "GET %s/v1/address HTTP/1.0\r\nHost: %s%s%s:%s\r\n"
                     "Accept: application/json\r\nConnection: close\r\n\r\n",
                     u->path, v6 ? "[" : "", u->host, v6 ? "]" : "", u->port);
    for (int done = 0; done < n;) {
        ssize_t k = send(fd, request + done, (size_t)(n - done), MSG_NOSIGNAL);
        if (k > 0)
            done += (int)k;
        else if (errno != EAGAIN || wait_fd(fd, POLLOUT, end_ms) != 0)
            return err_set(e, Q_EUNAVAILABLE, "%s port %s hung up", u->host, u->port);
    }
    for (;;) {
        char chunk[4096];
        ssize_t k = recv(fd, chunk, sizeof chunk, 0);
        if (k == 0)
            return 0;
        if (k > 0 && buf_put(answer, chunk, (size_t)k) != 0)
            return err_set(e, Q_EINVAL, "the answer of %s is too long", u->host);
        if (k < 0 && errno != EAGAIN && errno != EINTR)
            return err_sys(e, "no answer from %s port %s", u->host, u->port);
        if (k < 0 && wait_fd(fd, POLLIN, end_ms) != 0)
            return err_set(e, Q_ETIMEOUT, "no answer from %s port %s in time", u->host, u->port);
    }
}

static int parse_answer(const struct buf *b, const struct lookup_url *u, char out[256],
                        struct err *e)
{
    const char *text = buf_cstr(b);
    const char *body = strstr(text, "\r\n\r\n");
    int status = 0;
    if (sscanf(text, "HTTP/1.%*1[01] %3d", &status) != 1 || !body)
        return err_set(e, Q_EINVAL, "%s port %s does not speak HTTP", u->host, u->port);
    if (status != 200)
        return err_set(e, Q_EUNAVAILABLE, "%s port %s answers /v1/address with status %d", u->host,
                       u->port, status);
    body += 4;
    struct jv *v;
    int rc = jv_parse(&v, body, b->len - (size_t)(body - text), 4, e);
    if (rc != 0)
        return rc;
    const char *s = jv_str(v, "");
    if (*s == '\0' || strlen(s) >= 256 || !strchr(s, ':'))
        rc = err_set(e, Q_EINVAL, "%s port %s gives no address at /v1/address", u->host, u->port);
    else
        snprintf(out, 256, "%s", s);
    jv_free(v);
    return rc;
}

int lookup_address(const struct lookup_url *u, char out[256], struct err *e)
{
    int fd = -1;
    uint64_t end = clock_mono_ms() + TIMEOUT_MS;
    int rc = dial(u, end, &fd, e);
    if (rc != 0)
        return rc;
    struct buf answer;
    buf_init(&answer, MAX_ANSWER);
    rc = talk(fd, u, end, &answer, e);
    close(fd);
    if (rc == 0)
        rc = parse_answer(&answer, u, out, e);
    buf_fini(&answer);
    return rc;
}

int lookup_local(const struct lookup_url *u, char out[64], struct err *e)
{
    struct addrinfo *list;
    /* Connecting a datagram socket sends nothing; it only picks the route. */
    int rc = resolve(&list, u, SOCK_DGRAM, e);
    if (rc != 0)
        return rc;
    rc = err_set(e, Q_EUNAVAILABLE, "no way to %s", u->host);
    for (struct addrinfo *a = list; a && rc != 0; a = a->ai_next) {
        struct sockaddr_storage own;
        socklen_t len = sizeof own;
        int fd = socket(a->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            continue;
        if (connect(fd, a->ai_addr, a->ai_addrlen) == 0 &&
            getsockname(fd, (struct sockaddr *)&own, &len) == 0 &&
            getnameinfo((struct sockaddr *)&own, len, out, 64, NULL, 0, NI_NUMERICHOST) == 0)
            rc = 0;
        close(fd);
    }
    freeaddrinfo(list);
    return rc;
}

bool lookup_is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;
    char plain[256];
    size_t n = strlen(host);
    if (host[0] == '[' && n > 2 && n < sizeof plain) {
        snprintf(plain, sizeof plain, "%.*s", (int)(n - 2), host + 1);
        host = plain;
    }
    if (strcasecmp(host, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, host, &v4) == 1)
        return (ntohl(v4.s_addr) >> 24) == 127;
    if (inet_pton(AF_INET6, host, &v6) == 1)
        return IN6_IS_ADDR_LOOPBACK(&v6);
    return false;
}
