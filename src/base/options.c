#define _GNU_SOURCE /* strchrnul */

#include "base/options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

enum { HELP_COLUMN = 34, HELP_WIDTH = 110 };

/* ---- numbers ---- */

/* Reads a plain decimal number ("12", "1.5", "1e9") and leaves the rest of the text in *rest. Whole numbers
 * that a double cannot hold come exactly through *whole (-1 where the number is not written in digits alone).
 */
static bool read_decimal(const char *text, double *number, int64_t *whole, const char **rest)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 && text[0] != '.')
        return false;
    char *end;
    *number = strtod(text, &end);
    if (end == text || text[1] == 'x' || text[1] == 'X')
        return false;
    *rest = end;
    *whole = -1;
    if (end == text + digits) {
        *whole = 0;
        for (size_t i = 0; i < digits; i++)
            if (__builtin_mul_overflow(*whole, (int64_t)10, whole) ||
                __builtin_add_overflow(*whole, (int64_t)(text[i] - '0'), whole))
                return false;
    }
    return true;
}

typedef struct {
    const char *name;
    int64_t factor;
} suffix;

static bool parse_whole(const char *text, const suffix *suffixes, int64_t *out)
{
    double number;
    int64_t whole;
    const char *rest;
    if (!read_decimal(text, &number, &whole, &rest))
        return false;
    int64_t factor = 1;
    if (*rest != '\0') {
        while (suffixes->name != NULL && strcmp(suffixes->name, rest) != 0)
            suffixes++;
        if (suffixes->name == NULL)
            return false;
        factor = suffixes->factor;
    }
    if (whole >= 0)
        return !__builtin_mul_overflow(whole, factor, out);
    number *= (double)factor;
    if (!(number < 0x1p63) || number != floor(number))
        return false;
    *out = (int64_t)number;
    return true;
}

bool fgmm__parse_count(const char *text, int64_t *out)
{
    static const suffix suffixes[] = {{"k", 1000}, {"M", 1000000}, {"G", 1000000000}, {NULL, 0}};
    return parse_whole(text, suffixes, out);
}

bool fgmm__parse_bytes(const char *text, int64_t *out)
{
    static const suffix suffixes[] = {
        {"KiB", 1LL << 10}, {"MiB", 1LL << 20}, {"GiB", 1LL << 30}, {"TiB", 1LL << 40}, {NULL, 0}};
    return parse_whole(text, suffixes, out);
}

bool fgmm__parse_real(const char *text, double *out)
{
    double number;
    int64_t whole;
    const char *rest, *digits = text + (text[0] == '-' || text[0] == '+');
    if (!read_decimal(digits, &number, &whole, &rest) || *rest != '\0' || !isfinite(number))
        return false;
    *out = text[0] == '-' ? -number : number;
    return true;
}

/* ---- names ---- */

int fgmm__edit_distance(const char *a, const char *b)
{
    enum { LONGEST = 48 };
    size_t n = strnlen(a, LONGEST), m = strnlen(b, LONGEST);
    int d[LONGEST + 1][LONGEST + 1];
    for (size_t i = 0; i <= n; i++)
        d[i][0] = (int)i;
    for (size_t j = 0; j <= m; j++)
        d[0][j] = (int)j;
    for (size_t i = 1; i <= n; i++)
        for (size_t j = 1; j <= m; j++) {
            int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best)
                best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best)
                best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[n][m];
}

/* Copies the next spelling of "-k,--components" (or of "gmm|kmeans") and moves *names past it; false at the
 * end. */
static bool next_name(const char **names, char separator, char *out, size_t size)
{
    if (**names == '\0')
        return false;
    const char *end = strchrnul(*names, separator);
    snprintf(out, size, "%.*s", (int)(end - *names), *names);
    *names = *end == '\0' ? end : end + 1;
    return true;
}

static bool spelled(const fgmm_option *option, const char *text, size_t length)
{
    char name[64];
    const char *names = option->name;
    while (next_name(&names, ',', name, sizeof name))
        if (strlen(name) == length && strncmp(name, text, length) == 0)
            return true;
    return false;
}

static const fgmm_option *find(const fgmm_option *table, const char *text, size_t length)
{
    for (; table != NULL && table->name != NULL; table++)
        if (spelled(table, text, length))
            return table;
    return NULL;
}

static void find_nearest(const fgmm_option *table, const char *text, char *nearest, size_t size,
                         int *distance)
{
    char name[64];
    for (; table != NULL && table->name != NULL; table++) {
        const char *names = table->name;
        while (next_name(&names, ',', name, sizeof name)) {
            int d = fgmm__edit_distance(text, name);
            if (d < *distance) {
                *distance = d;
                snprintf(nearest, size, "%s", name);
            }
        }
    }
}

static fgmm_status fail_unknown(const char *text, size_t length, const fgmm_option *table,
                                const fgmm_option *global)
{
    char given[64], nearest[64] = "";
    snprintf(given, sizeof given, "%.*s", (int)length, text);
    int distance = 64;
    find_nearest(table, given, nearest, sizeof nearest, &distance);
    find_nearest(global, given, nearest, sizeof nearest, &distance);
    if (distance <= 1 + (int)strlen(given) / 4)
        return fgmm__fail(FGMM_ERR_INPUT, "unknown option %s; did you mean %s?", given, nearest);
    return fgmm__fail(FGMM_ERR_INPUT, "unknown option %s; --help lists the options", given);
}

/* ---- parsing ---- */

static fgmm_status set_choice(const fgmm_option *option, const char *given, const char *value)
{
    char name[64];
    const char *names = option->argument;
    for (int i = 0; next_name(&names, '|', name, sizeof name); i++)
        if (strcmp(name, value) == 0) {
            *(int *)option->value = i;
            return FGMM_OK;
        }
    return fgmm__fail(FGMM_ERR_INPUT, "%s: `%s` is not one of %s", given, value, option->argument);
}

static fgmm_status set_value(const fgmm_option *option, const char *given, const char *value)
{
    switch (option->kind) {
    case FGMM_OPT_FLAG:
        *(bool *)option->value = true;
        return FGMM_OK;
    case FGMM_OPT_TEXT:
        *(const char **)option->value = value;
        return FGMM_OK;
    case FGMM_OPT_COUNT:
        if (fgmm__parse_count(value, option->value))
            return FGMM_OK;
        return fgmm__fail(FGMM_ERR_INPUT, "%s: `%s` is not a whole number (such as 12, 10k, 2M or 1e9)",
                          given, value);
    case FGMM_OPT_BYTES:
        if (fgmm__parse_bytes(value, option->value))
            return FGMM_OK;
        return fgmm__fail(FGMM_ERR_INPUT, "%s: `%s` is not a number of bytes (such as 4096, 512MiB or 4GiB)",
                          given, value);
    case FGMM_OPT_REAL:
        if (fgmm__parse_real(value, option->value))
            return FGMM_OK;
        return fgmm__fail(FGMM_ERR_INPUT, "%s: `%s` is not a number (such as 0.5 or 1e-3)", given, value);
    case FGMM_OPT_CHOICE:
        return set_choice(option, given, value);
    }
    return fgmm__fail(FGMM_ERR_RUNTIME, "%s: an option of no known kind", given);
}

/* Parses the option at argv[*at] and moves *at to the last argument that it used. */
static fgmm_status parse_option(int argc, char **argv, int *at, const fgmm_option *table,
                                const fgmm_option *global)
{
    const char *text = argv[*at];
    size_t length = strncmp(text, "--", 2) == 0 ? strcspn(text, "=") : strlen(text);
    const fgmm_option *option = find(table, text, length);
    if (option == NULL)
        option = find(global, text, length);
    if (option == NULL)
        return fail_unknown(text, length, table, global);

    char given[64];
    snprintf(given, sizeof given, "%.*s", (int)length, text);
    if (text[length] == '=') {
        if (option->kind == FGMM_OPT_FLAG)
            return fgmm__fail(FGMM_ERR_INPUT, "%s takes no value", given);
        return set_value(option, given, text + length + 1);
    }
    if (option->kind == FGMM_OPT_FLAG)
        return set_value(option, given, NULL);
    const char *value = *at + 1 < argc ? argv[*at + 1] : NULL;
    if (value == NULL || find(table, value, strlen(value)) != NULL ||
        find(global, value, strlen(value)) != NULL)
        return fgmm__fail(FGMM_ERR_INPUT, "%s needs a value: %s %s", given, given, option->argument);
    ++*at;
    return set_value(option, given, value);
}

fgmm_status fgmm__options_parse(int argc, char **argv, const fgmm_option *table, const fgmm_option *global,
                                const char **positionals, int *n_positionals)
{
    fgmm_status status = FGMM_OK;
    bool options_ended = false;
    *n_positionals = 0;
    for (int i = 0; i < argc; i++) {
        if (options_ended || argv[i][0] != '-' || argv[i][1] == '\0')
            positionals[(*n_positionals)++] = argv[i];
        else if (strcmp(argv[i], "--") == 0)
            options_ended = true;
        else
            FGMM_TRY(parse_option(argc, argv, &i, table, global));
    }
cleanup:
    return status;
}

/* ---- help ---- */

/* Prints words from column `column` on (the cursor is there already), broken before HELP_WIDTH and at
 * newlines. */
static void print_wrapped(const char *text, int column)
{
    int at = column;
    while (*text != '\0') {
        int word = (int)strcspn(text, " \n");
        if (at > column && at + 1 + word > HELP_WIDTH) {
            printf("\n%*s", column, "");
            at = column;
        }
        at += printf("%s%.*s", at > column ? " " : "", word, text);
        text += word;
        if (*text == '\n') {
            printf("\n%*s", column, "");
            at = column;
        }
        text += strspn(text, " \n");
    }
    printf("\n");
}

static void print_table(const char *title, const fgmm_option *table)
{
    if (table == NULL || table->name == NULL)
        return;
    printf("\n%s\n", title);
    for (; table->name != NULL; table++) {
        int at = printf("  ");
        for (const char *c = table->name; *c != '\0'; c++)
            at += printf("%c%s", *c, *c == ',' ? " " : "");
        if (table->argument != NULL)
            at += printf(" %s", table->argument);
        if (at >= HELP_COLUMN)
            at = printf("\n") - 1;
        printf("%*s", HELP_COLUMN - at, "");
        print_wrapped(table->help, HELP_COLUMN);
    }
}

void fgmm__options_help(const char *usage, const char *description, const fgmm_option *table,
                        const fgmm_option *global)
{
    printf("usage: %s\n\n", usage);
    print_wrapped(description, 0);
    print_table("Options", table);
    print_table("Global options", global);
    fflush(stdout);
}
