/* SPDX-License-Identifier: Apache-2.0 */
/* schema_format.c - the formats that are enforced, as regexes. Where a format's full rule is
 * not regular or very large, the regex takes a part of it: everything it takes is valid. */
#include "base/num.h"
#include "worker/text/schema_int.h"

#include <string.h>

#define LEAP "(\\d\\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
#define DATE                                                                                       \
    "(\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|" \
    "1\\d|2[0-8]))|" LEAP "-02-29)"
#define TIME  "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,12})?([Zz]|[+-]([01]\\d|2[0-3]):[0-5]\\d)"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define OCTET "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define IPV4  OCTET "(\\." OCTET "){3}"
#define H     "[0-9A-Fa-f]{1,4}"
#define PCT   "%[0-9A-Fa-f]{2}"
#define UNRES "[A-Za-z0-9\\-._~!$&'()*+,;=:@]|" PCT
#define AUTH  "([A-Za-z0-9\\-._~!$&'()*+,;=:]|" PCT ")*@"
#define HOST  "(([A-Za-z0-9\\-._~!$&'()*+,;=]|" PCT ")*)"
#define TAIL  "(\\?(" UNRES "|[/?])*)?(#(" UNRES "|[/?])*)?"
#define URI                                                                                        \
    "[A-Za-z][A-Za-z0-9+.-]*:(//(" AUTH ")?" HOST "(:\\d*)?(/(" UNRES ")*)*|/((" UNRES             \
    ")+(/(" UNRES ")*)*)?|(" UNRES ")+(/(" UNRES ")*)*|)" TAIL
#define RELREF                                                                                     \
    "(//(" AUTH ")?" HOST "(:\\d*)?(/(" UNRES ")*)*|/((" UNRES ")+(/(" UNRES ")*)*)?|"             \
    "([A-Za-z0-9\\-._~!$&'()*+,;=@]|" PCT ")+(/(" UNRES ")*)*|)" TAIL

const char *schema_format(const char *name)
{
    static const struct {
        const char *name, *regex;
    } known[] = {
        {"date", "^" DATE "$"},
        {"time", "^" TIME "$"},
        {"date-time", "^" DATE "[Tt]" TIME "$"},
        {"duration",
         "^P((\\d+Y(\\d+M(\\d+D)?)?|\\d+M(\\d+D)?|\\d+D)(T(\\d+H(\\d+M(\\d+S)?)?|\\d+M(\\d+S)?|"
         "\\d+S))?|T(\\d+H(\\d+M(\\d+S)?)?|\\d+M(\\d+S)?|\\d+S)|\\d+W)$"},
        {"email", "^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@" LABEL
                  "(\\." LABEL ")*$"},
        {"hostname", "^" LABEL "(\\." LABEL "){0,3}$"},
        {"ipv4", "^" IPV4 "$"},
        {"ipv6",
         "^((" H ":){7}" H "|(" H ":){1,7}:|(" H ":){1,6}:" H "|(" H ":){1,5}(:" H "){1,2}|(" H
         ":){1,4}(:" H "){1,3}|(" H ":){1,3}(:" H "){1,4}|(" H ":){1,2}(:" H "){1,5}|" H ":(:" H
         "){1,6}|:((:" H "){1,7}|:)|(" H ":){6}" IPV4 "|::(" H ":){0,5}" IPV4 ")$"},
        {"uuid", "^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$"},
        {"uri", "^" URI "$"},
        {"uri-reference", "^(" URI "|" RELREF ")$"},
        {"json-pointer", "^(/([^~/]|~[01])*)*$"},
        {"relative-json-pointer", "^(0|[1-9]\\d*)(#|(/([^~/]|~[01])*)*)$"},
    };
    for (size_t i = 0; i < NUM_COUNT(known); i++)
        if (strcmp(known[i].name, name) == 0)
            return known[i].regex;
    return NULL;
}
