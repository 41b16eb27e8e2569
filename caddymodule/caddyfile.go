package caddymodule

import (
	"math"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"

	"github.com/sqedge/sqedge/caddymodule/owners"
	"github.com/sqedge/sqedge/shared/tenants"
	"github.com/sqedge/sqedge/shared/wire"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("sq", parseApp)
	httpcaddyfile.RegisterHandlerDirective("sq_auth", parseAuth)
	httpcaddyfile.RegisterHandlerDirective("sq_admin", parseAdmin)
	httpcaddyfile.RegisterHandlerDirective("sq", parseGateway)
	httpcaddyfile.RegisterDirectiveOrder("sq_auth", httpcaddyfile.After, "basic_auth")
	// Both answer requests by themselves, as reverse_proxy does; sq_admin must
	// come first, since sq answers all that is left. Each goes right before
	// reverse_proxy, so the one registered first stands first.
	httpcaddyfile.RegisterDirectiveOrder("sq_admin", httpcaddyfile.Before, "reverse_proxy")
	httpcaddyfile.RegisterDirectiveOrder("sq", httpcaddyfile.Before, "reverse_proxy")
}

// parseApp sets up the app from the global options. Syntax:
//
//	sq {
//	    config           <path>
//	    data_root        <path>
//	    run_dir          <path>
//	    worker           <path>
//	    sandbox          strict|default|off
//	    worker_uids      <first>-<last>
//	    max_scroll       <size>
//	    max_document     <size>
//	    memory_mb        <MiB>
//	    cors_origin      <origins...>
//	    limits {
//	        <limit> <number>
//	    }
//	    max_in_flight    <number>
//	    start_timeout    <duration>
//	    response_timeout <duration>
//	    drain_timeout    <duration>
//	    idle_timeout     <duration>|never
//	    max_starts       <number>
//	    max_workers      <number>
//	    spare_workers    <number>
//	    max_queue        <number>
//	    queue_timeout    <duration>
//	}
func parseApp(d *caddyfile.Dispenser, existing any) (any, error) {
	d.Next() // the option's name
	if existing != nil {
		return nil, d.Err("the sq options are given twice")
	}
	app := new(App)
	if d.NextArg() {
		return nil, d.ArgErr()
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		option := d.Val()
		if seen[option] && option != "cors_origin" {
			return nil, d.Errf("sq: %s is given twice", option)
		}
		seen[option] = true
		parse := app.parseOption
		if option == "limits" {
			parse = app.parseLimits
		}
		if err := parse(d, option); err != nil {
			return nil, err
		}
	}
	return httpcaddyfile.App{Name: "sq", Value: caddyconfig.JSON(app, nil)}, nil
}

func (a *App) parseOption(d *caddyfile.Dispenser, option string) error {
	args := d.RemainingArgs()
	if len(args) == 0 || len(args) > 1 && option != "cors_origin" {
		return d.ArgErr()
	}
	switch option {
	case "config":
		a.Config = args[0]
	case "data_root":
		a.DataRoot = args[0]
	case "run_dir":
		a.RunDir = args[0]
	case "worker":
		a.Worker = args[0]
	case "sandbox":
		mode, err := wire.ParseSandbox(args[0])
		if err != nil {
			return d.Errf("sq: sandbox: %v", err)
		}
		a.Sandbox = mode
	case "worker_uids":
		if _, err := owners.ParseRange(args[0]); err != nil {
			return d.Errf("sq: worker_uids: %v", err)
		}
		a.WorkerUIDs = args[0]
	case "max_scroll":
		return parseSize(d, &a.MaxScroll, args[0])
	case "max_document":
		return parseSize(d, &a.MaxDocument, args[0])
	case "memory_mb":
		mb, err := strconv.Atoi(args[0])
		if err != nil || checkMemory(mb) != nil {
			return d.Errf("sq: memory_mb %q is no number of MiB from %d to %d", args[0], wire.MinMemory, wire.MaxMemory)
		}
		a.MemoryMB = mb
	case "cors_origin":
		for _, origin := range args {
			if err := checkOrigin(origin); err != nil {
				return d.Errf("sq: cors_origin: %v", err)
			}
		}
		a.CORSOrigins = append(a.CORSOrigins, args...)
	case "max_in_flight":
		n, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil || n < 1 {
			return d.Errf("sq: max_in_flight must be a whole number from 1")
		}
		a.MaxInFlight = n
	case "start_timeout":
		return parseTimeout(d, &a.StartTimeout, args[0])
	case "response_timeout":
		return parseTimeout(d, &a.ResponseTimeout, args[0])
	case "drain_timeout":
		return parseTimeout(d, &a.DrainTimeout, args[0])
	case "idle_timeout":
		a.IdleTimeout = new(caddy.Duration)
		if args[0] == "0" || args[0] == "never" {
			return nil
		}
		return parseTimeout(d, a.IdleTimeout, args[0])
	case "max_starts":
		return parseNumber(d, &a.MaxStarts, args[0])
	case "max_workers":
		return parseNumber(d, &a.MaxWorkers, args[0])
	case "spare_workers":
		n, err := strconv.Atoi(args[0])
		if err != nil || n < 0 {
			return d.Errf("sq: spare_workers %q is no whole number from 0", args[0])
		}
		a.SpareWorkers = &n
	case "max_queue":
		return parseNumber(d, &a.MaxQueue, args[0])
	case "queue_timeout":
		return parseTimeout(d, &a.QueueTimeout, args[0])
	default:
		return d.Errf("sq: unrecognized option %s", option)
	}
	return nil
}

// parseLimits reads the limits of tenants that have none of their own. Syntax:
//
//	limits {
//	    requests_per_second <number>
//	    burst               <number>
//	    requests_per_day    <number>
//	    concurrent_requests <number>
//	    open_streams        <number>
//	}
func (a *App) parseLimits(d *caddyfile.Dispenser, option string) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		rule := tenants.RuleOf(d.Val())
		if rule == nil {
			return d.Errf("sq: limits: unrecognized limit %s: there are %s", d.Val(), tenants.LimitNames())
		}
		if seen[rule.Name] {
			return d.Errf("sq: limits: %s is given twice", rule.Name)
		}
		seen[rule.Name] = true
		var number string
		if !d.AllArgs(&number) {
			return d.ArgErr()
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			n = -1 // which no limit may be
		}
		if err := rule.Check(n); err != nil {
			return d.Errf("sq: limits: %v", err)
		}
		*rule.Value(&a.Limits) = n
	}
	if err := a.checkLimits(); err != nil {
		return d.Errf("sq: limits: %v", err)
	}
	return nil
}

func parseSize(d *caddyfile.Dispenser, into *int64, arg string) error {
	size, err := humanize.ParseBytes(arg)
	if err != nil || size == 0 || size > math.MaxInt64 {
		return d.Errf("sq: %q is no size: want bytes, or a number with a unit such as 16MiB", arg)
	}
	*into = int64(size)
	return nil
}

func parseNumber(d *caddyfile.Dispenser, into *int, arg string) error {
	number, err := strconv.Atoi(arg)
	if err != nil || number <= 0 {
		return d.Errf("sq: %q is no whole number above zero", arg)
	}
	*into = number
	return nil
}

func parseTimeout(d *caddyfile.Dispenser, into *caddy.Duration, arg string) error {
	timeout, err := caddy.ParseDuration(arg)
	if err != nil || timeout <= 0 {
		return d.Errf("sq: %q is no duration above zero: want a number with a unit such as 15s", arg)
	}
	*into = caddy.Duration(timeout)
	return nil
}

// parseGateway sets up the gateway. Syntax:
//
//	sq [<matcher>]
func parseGateway(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	return new(Gateway), parseBare(h)
}

// parseAuth sets up authentication ahead of the gateway. Syntax:
//
//	sq_auth [<matcher>]
func parseAuth(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	return new(Auth), parseBare(h)
}

// parseAdmin sets up the admin handler. Syntax:
//
//	sq_admin [<matcher>]
func parseAdmin(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	return new(Admin), parseBare(h)
}

// parseBare reads a directive that takes no arguments: all options are global,
// since the handlers share one app.
func parseBare(h httpcaddyfile.Helper) error {
	h.Next() // the directive's name
	if h.NextArg() {
		return h.ArgErr()
	}
	if h.NextBlock(0) {
		return h.Err("this directive has no options of its own: they go into the global sq block")
	}
	return nil
}
