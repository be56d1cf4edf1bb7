/* SPDX-License-Identifier: Apache-2.0 */
/* grammar_kinds.h - what the tests of constrained text share: vocabularies of the test data, JSON
 * and grammars of any kind from text, numbers at random. */
#ifndef QUIRE_TEST_GRAMMAR_KINDS_H
#define QUIRE_TEST_GRAMMAR_KINDS_H

#include "worker/text/gram_tools.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* TIGHT: a schema as requests compile it; TOOLS: forced calls of one of these tools. */
enum kind { SCHEMA, TIGHT, GBNF, REGEX, CHOICE, TOOLS };

static inline const char *data_dir(void)
{
    const char *d = getenv("QUIRE_TEST_DATA");
    return d && *d ? d : QUIRE_SHARED_DATA;
}

/* NULL: the data is not there. */
static inline struct tokenizer *open_vocab(const char *name)
{
    char path[512];
    struct gguf *f;
    struct tokenizer *t = NULL;
    struct err e = {0};
    snprintf(path, sizeof path, "%s/vocabs/gguf/%s", data_dir(), name);
    if (gguf_open(&f, path, &e))
        return NULL;
    assert_int_equal(tokenizer_open_gguf(&t, f, &e), 0);
    gguf_close(f);
    return t;
}

static inline struct jv *parse(const char *text)
{
    struct jv *v;
    struct err e;
    assert_int_equal(jv_parse(&v, text, strlen(text), 64, &e), 0);
    return v;
}

static inline unsigned next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (unsigned)(*seed >> 33);
}

/* v: of the marks that TOOLS need, else NULL. */
static inline int compile(enum kind k, const char *text, const struct grammar_vocab *v,
                          struct grammar **g, struct err *e)
{
    const struct grammar_options tight = {.closed = true, .tight = true};
    struct jv *tree = NULL;
    int rc;
    *g = NULL;
    if (k == GBNF)
        return grammar_compile_gbnf(g, text, strlen(text), e);
    if (k == REGEX)
        return grammar_compile_regex(g, text, strlen(text), e);
    tree = parse(text);
    const struct gram_tools tools = {.format = "hermes", .tools = tree};
    rc = k == CHOICE  ? grammar_compile_choice(g, tree, e)
         : k == TOOLS ? grammar_compile_tools(g, &tools, &tight, v, e)
                      : grammar_compile_schema(g, tree, k == TIGHT ? &tight : NULL, e);
    jv_free(tree);
    return rc;
}

#endif
