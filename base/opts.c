/* SPDX-License-Identifier: Apache-2.0 */
#include "base/opts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static char fold(char c)
{
    if (c == '_')
        return '-';
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

unsigned opts_distance(const char *a, const char *b)
{
    enum { MAX = 96 };
    size_t n = strnlen(a, MAX - 1), m = strnlen(b, MAX - 1);
    unsigned d[3][MAX];
    for (size_t j = 0; j <= m; j++)
        d[0][j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++) {
        unsigned *cur = d[i % 3], *prev = d[(i - 1) % 3], *prev2 = d[(i + 1) % 3];
        cur[0] = (unsigned)i;
        for (size_t j = 1; j <= m; j++) {
            unsigned same = fold(a[i - 1]) == fold(b[j - 1]) ? 0 : 1;
            unsigned best = prev[j - 1] + same;
            if (prev[j] + 1 < best)
                best = prev[j] + 1;
            if (cur[j - 1] + 1 < best)
                best = cur[j - 1] + 1;
            if (i > 1 && j > 1 && fold(a[i - 1]) == fold(b[j - 2]) &&
                fold(a[i - 2]) == fold(b[j - 1]) && prev2[j - 2] + 1 < best)
                best = prev2[j - 2] + 1;
            cur[j] = best;
        }
    }
    return d[n % 3][m];
}

static bool same_name(const char *a, const char *b, size_t n)
{
    if (strlen(a) != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i] && !((a[i] == '-' || a[i] == '_') && (b[i] == '-' || b[i] == '_')))
            return false;
    return true;
}

static const struct opt *find(const struct opts_cmd *cmd, const char *name, size_t n, bool is_long)
{
    for (size_t i = 0; i < cmd->n_opts; i++) {
        const struct opt *o = &cmd->opts[i];
        if (is_long ? same_name(o->name, name, n)
                    : o->abbr && strlen(o->abbr) == n && memcmp(o->abbr, name, n) == 0)
            return o;
    }
    return NULL;
}

static int unknown(const struct opts_cmd *cmd, const char *arg, struct err *e)
{
    const char *near = NULL;
    unsigned best = 3;
    const char *name = arg + strspn(arg, "-");
    for (size_t i = 0; i < cmd->n_opts; i++) {
        unsigned d = opts_distance(name, cmd->opts[i].name);
        if (d < best) {
            best = d;
            near = cmd->opts[i].name;
        }
    }
    if (near)
        return err_set(e, Q_EINVAL, "unknown option %s; did you mean --%s?", arg, near);
    return err_set(e, Q_EINVAL, "unknown option %s; see %s --help", arg, cmd->name);
}

static int store(const struct opt *o, const char *v, struct err *e)
{
    char *end;
    errno = 0;
    switch (o->kind) {
    case OPT_STR:
        *(const char **)o->to = v;
        return 0;
    case OPT_INT: {
        long long i = strtoll(v, &end, 10);
        if (*v == '\0' || *end != '\0' || errno)
            return err_set(e, Q_EINVAL, "--%s needs a whole number, not \"%s\"", o->name, v);
        if (o->max > o->min && ((double)i < o->min || (double)i > o->max))
            return err_set(e, Q_EINVAL, "--%s must be between %.0f and %.0f, not %s", o->name,
                           o->min, o->max, v);
        *(int64_t *)o->to = i;
        return 0;
    }
    case OPT_NUM: {
        double d = strtod(v, &end);
        if (*v == '\0' || *end != '\0' || d != d)
            return err_set(e, Q_EINVAL, "--%s needs a number, not \"%s\"", o->name, v);
        if (o->max > o->min && (d < o->min || d > o->max))
            return err_set(e, Q_EINVAL, "--%s must be between %g and %g, not %s", o->name, o->min,
                           o->max, v);
        *(double *)o->to = d;
        return 0;
    }
    default: {
        static const char *const yes[] = {"true", "1", "yes", "on"};
        static const char *const no[] = {"false", "0", "no", "off"};
        for (size_t i = 0; i < 4; i++) {
            if (strcasecmp(v, yes[i]) == 0 || strcasecmp(v, no[i]) == 0) {
                *(bool *)o->to = strcasecmp(v, yes[i]) == 0;
                return 0;
            }
        }
        return err_set(e, Q_EINVAL, "--%s needs true or false, not \"%s\"", o->name, v);
    }
    }
}

int opts_parse(const struct opts_cmd *cmd, int argc, char **argv, int *n_pos, opts_extra_fn *extra,
               void *ctx, struct err *e)
{
    int pos = 0;
    for (int i = 1; i < argc; i++) {
        char *arg = argv[i];
        if (strcmp(arg, "--") == 0) {
            for (i++; i < argc; i++)
                argv[1 + pos++] = argv[i];
            break;
        }
        bool is_long = arg[0] == '-' && arg[1] == '-';
        if (!is_long && (arg[0] != '-' || arg[1] == '\0' || (arg[1] >= '0' && arg[1] <= '9'))) {
            argv[1 + pos++] = arg;
            continue;
        }
        const char *name = arg + (is_long ? 2 : 1);
        size_t n = strcspn(name, "=");
        const struct opt *o = find(cmd, name, n, is_long);
        if (!o &&
            ((is_long && same_name("help", name, n)) || (!is_long && n == 1 && *name == 'h'))) {
            opts_help(cmd, stdout);
            return OPTS_HELP;
        }
        const char *value = name[n] == '=' ? name + n + 1 : NULL;
        if (o && o->kind == OPT_FLAG) {
            if (value)
                return err_set(e, Q_EINVAL, "--%s takes no value", o->name);
            *(bool *)o->to = true;
            continue;
        }
        if (!o && !(extra && is_long))
            return unknown(cmd, arg, e);
        if (!value) {
            if (i + 1 >= argc)
                return err_set(e, Q_EINVAL, "%s needs a value", arg);
            value = argv[++i];
        }
        char *key = strndup(name, n);
        if (!key)
            return err_set(e, Q_ENOMEM, "out of memory");
        int rc = o ? store(o, value, e) : extra(ctx, key, value, e);
        free(key);
        if (rc != 0)
            return rc;
    }
    *n_pos = pos;
    return OPTS_RUN;
}

void opts_help(const struct opts_cmd *cmd, FILE *out)
{
    fprintf(out, "Usage: %s%s%s%s\n\n%s\n", cmd->name, cmd->n_opts ? " [OPTIONS]" : "",
            cmd->args ? " " : "", cmd->args ? cmd->args : "", cmd->about);
    if (cmd->n_opts)
        fprintf(out, "\nOptions:\n");
    for (size_t i = 0; i < cmd->n_opts; i++) {
        const struct opt *o = &cmd->opts[i];
        char left[80];
        snprintf(left, sizeof left, "%s%s%s--%s%s%s", o->abbr ? "-" : "", o->abbr ? o->abbr : "",
                 o->abbr ? ", " : "", o->name, o->kind == OPT_FLAG ? "" : " ",
                 o->kind == OPT_FLAG ? ""
                 : o->value          ? o->value
                                     : "VALUE");
        if (strlen(left) > 34)
            fprintf(out, "  %s\n  %-34s %s\n", left, "", o->help);
        else
            fprintf(out, "  %-34s %s\n", left, o->help);
    }
    fprintf(out, "  %-34s %s\n", "-h, --help", "show this text");
    if (cmd->examples)
        fprintf(out, "\nExamples:\n%s\n", cmd->examples);
}
