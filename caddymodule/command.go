package caddymodule

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/sqedge/sqedge/shared/tenants"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "sq-tenant-add",
		Usage: "--id <id> --data-dir <dir> [--quota-mb <n>] [--config <path>]",
		Short: "Adds a tenant to tenants.json and prints its key",
		Long: `
Adds a tenant with a new key to tenants.json and prints the key, which is shown
only this once. The data directory must exist. An edge that runs on the same
file takes the tenant into force within a second.

The admin API's POST /api/v2/admin/tenants/add does the same and creates the
data directory, too; this is for the time before an edge runs, and for scripts.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Flags().String("config", "", "Path of tenants.json (default: SQ_CONFIG, else /etc/sq/tenants.json)")
			cmd.Flags().String("id", "", "Id of the tenant")
			cmd.Flags().String("data-dir", "", "Data directory of the tenant")
			cmd.Flags().Int("quota-mb", defaultQuotaMB, "Quota in MB of 2^20 bytes, 0 for none")
			cmd.RunE = caddycmd.WrapCommandFuncForCobra(commandTenantAdd)
		},
	})
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "sq-tenant-remove",
		Usage: "--id <id> [--config <path>]",
		Short: "Takes a tenant out of tenants.json",
		Long: `
Takes a tenant out of tenants.json and leaves its data directory as it is. An
edge that runs on the same file refuses the tenant's key within a second.

The admin API's DELETE /api/v2/admin/tenants/{id} does the same and archives the
data directory, too; this is for the time when no edge runs, and for scripts.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Flags().String("config", "", "Path of tenants.json (default: SQ_CONFIG, else /etc/sq/tenants.json)")
			cmd.Flags().String("id", "", "Id of the tenant")
			cmd.RunE = caddycmd.WrapCommandFuncForCobra(commandTenantRemove)
		},
	})
}

func commandTenantAdd(fl caddycmd.Flags) (int, error) {
	config := fl.String("config")
	setDefault(&config, "SQ_CONFIG", "/etc/sq/tenants.json")
	id, dir := fl.String("id"), fl.String("data-dir")
	if err := tenants.CheckID(id); err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("--id: %w", err)
	}
	if !filepath.IsAbs(dir) {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("--data-dir %q: want an absolute path", dir)
	}
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = errors.New("not a directory")
	}
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("--data-dir: %w", err)
	}
	file, err := tenants.Open(config)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	key, _, err := file.Add(tenants.NewTenant{ID: id, DataDir: dir, QuotaMB: int64(fl.Int("quota-mb"))})
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("adding tenant %s: %w", id, err)
	}
	fmt.Println(key)
	return caddy.ExitCodeSuccess, nil
}

func commandTenantRemove(fl caddycmd.Flags) (int, error) {
	config := fl.String("config")
	setDefault(&config, "SQ_CONFIG", "/etc/sq/tenants.json")
	file, err := tenants.Open(config)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	id := fl.String("id")
	tenant, err := file.Remove(id)
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("removing tenant %q: %w", id, err)
	}
	fmt.Printf("Removed %s; its data stays in %s\n", tenant.ID, tenant.DataDir)
	return caddy.ExitCodeSuccess, nil
}
