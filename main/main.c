/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - the one program: picks the command, and the dialect by the name it was called by.
 *
 * The only file that sees every folder; it holds no logic of its own. */
#include "base/log.h"
#include "base/num.h"
#include "base/opts.h"
#include "client/cli.h"
#include "supervisor/supervisor.h"
#include "worker/agent/agent.h"
#include "worker/engine/shard_main.h"
#include "worker/tools/tools.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about; /* NULL: internal, not shown */
};

static const struct command commands[] = {
    {"start", start_main, "supervisor and one worker on this machine"},
    {"supervisor", supervisor_main, "the control plane and the HTTP endpoint"},
    {"worker", agent_main, "join this machine to a supervisor"},
    {"shard", shard_main, NULL},
    {"launch", cli_launch, "launch a model and wait until it answers"},
    {"list", cli_list, "running models"},
    {"terminate", cli_terminate, "stop a model"},
    {"chat", cli_chat, "talk to a model"},
    {"generate", cli_generate, "let a model continue text"},
    {"registrations", cli_registrations, "models that can be launched by name"},
    {"register", cli_register, "add a model of your own"},
    {"unregister", cli_unregister, "forget a model of your own"},
    {"stop-cluster", cli_stop_cluster, "stop supervisor, workers and models"},
    {"inspect", tool_inspect, "what a GGUF file holds and needs"},
    {"tokenize", tool_tokenize, "text to token ids"},
    {"detokenize", tool_detokenize, "token ids to text"},
    {"template", tool_template, "a conversation as the model sees it"},
    {"schema-check", tool_schema_check, "which texts a JSON schema or grammar takes"},
    {"parse-output", tool_parse_output, "reasoning, text and tool calls of an answer"},
    {"logits", tool_logits, "the numbers a model computes"},
    {"bench", tool_bench, "how fast this machine runs a model"},
    {"perplexity", tool_perplexity, "how well a model foretells a text"},
};

static void help(FILE *out)
{
    static const char *const first[] = {"start", "launch", "inspect"};
    static const char *const title[] = {"Run a cluster", "Use it", "Look at one part, no server"};
    fprintf(out,
            "Quire %s: many machines bound into one OpenAI-compatible endpoint.\n\n"
            "Usage: quire COMMAND [OPTIONS]     (quire COMMAND --help explains each)\n",
            QUIRE_VERSION);
    for (size_t i = 0; i < NUM_COUNT(commands); i++) {
        for (size_t k = 0; k < NUM_COUNT(first); k++)
            if (strcmp(commands[i].name, first[k]) == 0)
                fprintf(out, "\n%s\n", title[k]);
        if (commands[i].about)
            fprintf(out, "  %-14s %s\n", commands[i].name, commands[i].about);
    }
    fprintf(out, "\nFirst steps:\n  quire start &\n  quire launch --model-name smollm2\n"
                 "  quire chat\n");
}

static int dispatch(int argc, char **argv)
{
    const char *name = argv[0];
    for (size_t i = 0; i < NUM_COUNT(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return commands[i].run(argc, argv);
    const char *near = NULL;
    unsigned best = 3;
    for (size_t i = 0; i < NUM_COUNT(commands); i++) {
        unsigned d = opts_distance(name, commands[i].name);
        if (commands[i].about && d < best) {
            best = d;
            near = commands[i].name;
        }
    }
    fprintf(stderr, "quire: there is no command \"%s\"", name);
    if (near)
        fprintf(stderr, "; did you mean %s?", near);
    fprintf(stderr, "\nSee quire --help.\n");
    return 2;
}

static int call(const char *command, int argc, char **argv)
{
    static char name[32];
    snprintf(name, sizeof name, "%s", command);
    argv[0] = name;
    return dispatch(argc, argv);
}

/* Ollama's words for what Quire has; the rest of its command line is not spoken. */
static int ollama(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";
    argc--;
    argv++;
    if (strcmp(word, "serve") == 0)
        return call("start", argc, argv);
    if (strcmp(word, "list") == 0 || strcmp(word, "ls") == 0)
        return call("registrations", argc, argv);
    if (strcmp(word, "ps") == 0)
        return call("list", argc, argv);
    if (strcmp(word, "stop") == 0)
        return call("terminate", argc, argv);
    fprintf(stderr,
            "ollama (by Quire) understands serve, list, ps and stop; for the rest use quire:\n"
            "  quire launch --model-name NAME    then    quire chat --model-uid NAME\n");
    return word[0] == '\0' ? 2 : 1;
}

int main(int argc, char **argv)
{
    /* A peer that hangs up is an error code where we write, not a death. */
    signal(SIGPIPE, SIG_IGN);
    const char *slash = strrchr(argv[0], '/');
    const char *self = slash ? slash + 1 : argv[0];
    if (strcmp(self, "xinference-local") == 0)
        return call("start", argc, argv);
    if (strcmp(self, "xinference-supervisor") == 0)
        return call("supervisor", argc, argv);
    if (strcmp(self, "xinference-worker") == 0)
        return call("worker", argc, argv);
    bool xinference = strcmp(self, "xinference") == 0;
    if (argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-v") == 0)) {
        printf("quire %s\n", QUIRE_VERSION);
        return 0;
    }
    if (strcmp(self, "ollama") == 0)
        return ollama(argc, argv);
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
                     strcmp(argv[1], "help") == 0)) {
        help(stdout);
        return 0;
    }
    if (xinference && (argc < 2 || argv[1][0] == '-')) {
        fprintf(stderr, "xinference without a command starts a local cluster; "
                        "quire start says it plainly.\n");
        return call("start", argc, argv);
    }
    if (argc < 2) {
        help(stderr);
        return 2;
    }
    return dispatch(argc - 1, argv + 1);
}
