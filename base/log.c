/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include "base/json.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

static struct {
    pthread_mutex_t lock;
    enum log_level level;
    int json;
    char role[24], address[80], node[72];
} g = {.lock = PTHREAD_MUTEX_INITIALIZER, .level = LOG_INFO, .role = "-", .address = "-"};

void log_init(const char *role, const char *address)
{
    const char *format = getenv("QUIRE_LOG_FORMAT");
    if (!format)
        format = getenv("XINFERENCE_LOG_FORMAT");
    pthread_mutex_lock(&g.lock);
    g.json = format && strcasecmp(format, "json") == 0;
    snprintf(g.role, sizeof g.role, "%s", role ? role : "-");
    snprintf(g.address, sizeof g.address, "%s", address ? address : "-");
    if (gethostname(g.node, sizeof g.node) != 0)
        snprintf(g.node, sizeof g.node, "-");
    g.node[sizeof g.node - 1] = '\0';
    pthread_mutex_unlock(&g.lock);
}

int log_set_level_name(const char *name)
{
    static const struct {
        const char *name;
        enum log_level level;
    } names[] = {{"debug", LOG_DEBUG},  {"info", LOG_INFO},   {"warning", LOG_WARNING},
                 {"warn", LOG_WARNING}, {"error", LOG_ERROR}, {"critical", LOG_ERROR}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcasecmp(name, names[i].name) == 0) {
            pthread_mutex_lock(&g.lock);
            g.level = names[i].level;
            pthread_mutex_unlock(&g.lock);
            return 0;
        }
    }
    return Q_EINVAL;
}

enum log_level log_level(void)
{
    pthread_mutex_lock(&g.lock);
    enum log_level l = g.level;
    pthread_mutex_unlock(&g.lock);
    return l;
}

void log_write(enum log_level level, const char *module, const char *fmt, ...)
{
    static const char *const names[] = {"DEBUG", "INFO", "WARNING", "ERROR"};
    if (level < log_level())
        return;
    struct timespec ts;
    struct tm tm;
    char when[40], text[2048];
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    size_t n = strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(when + n, sizeof when - n, ".%03ldZ", ts.tv_nsec / 1000000);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    /* A message is one line: text from outside must not forge others. */
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20)
            *p = ' ';

    struct buf line;
    buf_init(&line, 8192);
    pthread_mutex_lock(&g.lock);
    if (g.json) {
        jw_obj(&line);
        jw_kstr(&line, "@timestamp", when);
        jw_kstr(&line, "level", names[level]);
        jw_kstr(&line, "module", module);
        jw_kint(&line, "pid", getpid());
        jw_kstr(&line, "role", g.role);
        jw_kstr(&line, "address", g.address);
        jw_kstr(&line, "node", g.node);
        jw_kstr(&line, "message", text);
        jw_end_obj(&line);
        buf_putc(&line, '\n');
    } else {
        buf_printf(&line, "%s %s quire.%s pid:%d role:%s address:%s node:%s %s\n", when,
                   names[level], module, (int)getpid(), g.role, g.address, g.node, text);
    }
    if (!line.failed && write(STDERR_FILENO, line.data, line.len) < 0) {
        /* Nowhere left to complain. */
    }
    pthread_mutex_unlock(&g.lock);
    buf_fini(&line);
}
