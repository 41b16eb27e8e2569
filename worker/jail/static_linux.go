//go:build !cgo

package jail

const usesCgo = false

var cgoCalls []uint32
