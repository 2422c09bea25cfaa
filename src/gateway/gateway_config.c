#include "gateway/gateway_config.h"

#include "base/diag.h"
#include "logic/glob.h"

const char *gateway_protocol_name(GatewayProtocol protocol)
{
    static const char *const names[GATEWAY_PROTOCOL_N_] = { "openai", "anthropic" };
    assert(protocol < GATEWAY_PROTOCOL_N_);
    return names[protocol];
}

const char *gateway_api_name(Api api)
{
    static const char *const names[API_N_] = { "chat", "responses", "messages", "embeddings" };
    assert(api < API_N_);
    return names[api];
}

GatewayProtocol gateway_api_protocol(Api api)
{
    assert(api < API_N_);
    return api == API_MESSAGES ? GATEWAY_ANTHROPIC : GATEWAY_OPENAI;
}

const GatewayRoute *gateway_route(const GatewayConfig *config, Str model, GatewayProtocol protocol)
{
    for (size_t i = 0; i < config->routes_n; i++) {
        const GatewayRoute *route = &config->routes[i];
        assert(route->provider < config->providers_n);
        if (config->providers[route->provider].protocol != protocol) continue;
        if (glob_match(str_of(route->match), model)) return route;
    }
    return NULL;
}

int gateway_resolve(const GatewayConfig *config, const PriceTable *prices, Str model,
                    GatewayProtocol protocol, const GatewayProvider **ret_provider,
                    const Price **ret_price)
{
    const GatewayRoute *route = gateway_route(config, model, protocol);
    if (!route)
        return diag_set(-ENOENT,
                        "no provider that speaks the %s protocol serves the model \"%.*s\": add it "
                        "to `models` in gantry.yaml",
                        gateway_protocol_name(protocol), STR_ARG(model));
    const GatewayProvider *provider = &config->providers[route->provider];
    if (ret_provider) *ret_provider = provider;
    const Price *price = price_find(prices ? prices : config->prices, str_of(provider->name),
                                    model);
    if (!price) price = provider->default_price;
    if (!price) price = config->ceiling_price;
    if (!price)
        return diag_set(-ENODATA,
                        "the price of \"%.*s\" is not known, so no budget could hold: add it to "
                        "`prices` in gantry.yaml, import a price list, or set budgets.ceilingPrice",
                        STR_ARG(model));
    if (ret_price) *ret_price = price;
    return 0;
}
