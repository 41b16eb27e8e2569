//go:build !amd64 && !arm64

package jail

func filter() (string, error) {
	return "", errMissing("there is no list of system calls for this processor")
}
