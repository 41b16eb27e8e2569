package main

import (
	"golang.org/x/sys/unix"
)

// with makes a socket, uses it and closes it.
func with(family, kind, protocol int, use func(fd int) error) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return use(fd)
}

func listen(address unix.Sockaddr) func(fd int) error {
	return func(fd int) error {
		if err := unix.Bind(fd, address); err != nil {
			return err
		}
		return unix.Listen(fd, 1)
	}
}

func connect(address unix.Sockaddr) func(fd int) error {
	return func(fd int) error { return unix.Connect(fd, address) }
}

func loopback(port int) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
}

var network = []attempt{
	{"network", "listen on TCP", func(targets) error { return with(unix.AF_INET, unix.SOCK_STREAM, 0, listen(loopback(0))) }},
	{"network", "listen on multipath TCP", func(targets) error {
		return with(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, listen(loopback(0)))
	}},
	{"network", "listen on UDP", func(targets) error {
		return with(unix.AF_INET, unix.SOCK_DGRAM, 0, func(fd int) error { return unix.Bind(fd, loopback(0)) })
	}},
	{"network", "listen on a unix socket", func(t targets) error {
		defer unix.Unlink(t.own("listen"))
		return with(unix.AF_UNIX, unix.SOCK_STREAM, 0, listen(&unix.SockaddrUnix{Name: t.own("listen")}))
	}},
	{"network", "listen on an abstract socket", func(t targets) error {
		return with(unix.AF_UNIX, unix.SOCK_STREAM, 0, listen(&unix.SockaddrUnix{Name: t.Abstract + "-mine"}))
	}},
	{"network", "connect to the admin port", func(t targets) error {
		return with(unix.AF_INET, unix.SOCK_STREAM, 0, connect(loopback(t.TCP)))
	}},
	{"network", "connect to it by multipath TCP", func(t targets) error {
		return with(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, connect(loopback(t.TCP)))
	}},
	{"network", "connect to a sibling's or the admin's socket", func(t targets) error {
		return with(unix.AF_UNIX, unix.SOCK_STREAM, 0, connect(&unix.SockaddrUnix{Name: t.Socket}))
	}},
	{"network", "connect to an abstract socket", func(t targets) error {
		return with(unix.AF_UNIX, unix.SOCK_STREAM, 0, connect(&unix.SockaddrUnix{Name: t.Abstract}))
	}},
	{"network", "send a datagram", func(t targets) error {
		return with(unix.AF_INET, unix.SOCK_DGRAM, 0, func(fd int) error { return unix.Sendto(fd, []byte("x"), 0, loopback(t.TCP)) })
	}},
	{"network", "talk to the kernel's routing", func(targets) error {
		return with(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE, func(fd int) error {
			return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		})
	}},
	{"network", "make a pair of sockets", func(targets) error {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err == nil {
			unix.Close(pair[0])
			unix.Close(pair[1])
		}
		return err
	}},
	{"network", "listen anew on an inherited socket", func(targets) error {
		// The listener's descriptor is among the lowest ones.
		var err error
		for fd := 3; fd < 16; fd++ {
			if err = unix.Listen(fd, 1); err == nil || err == unix.EPERM {
				return err
			}
		}
		return err
	}},
}
