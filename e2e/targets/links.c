/* Sockets below and beside the internet: netlink and packet sockets. */
#include "common.h"

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

static struct sockaddr_nl netlink_name(int fd) {
    struct sockaddr_nl name = {0};
    socklen_t length = sizeof name;
    WORKS(getsockname(fd, (struct sockaddr *)&name, &length));
    return name;
}

/* Asks for all interfaces; there is at least one. */
static void asks(int fd) {
    struct {
        struct nlmsghdr header;
        struct rtgenmsg body;
    } request = {.header = {.nlmsg_len = sizeof request, .nlmsg_type = RTM_GETLINK,
                            .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP, .nlmsg_seq = 1}};
    EQUAL(send(fd, &request, sizeof request, 0), sizeof request);
    static char answer[1 << 16];
    struct pollfd asked = {.fd = fd, .events = POLLIN};
    EQUAL(poll(&asked, 1, 10000), 1);
    CHECK(recv(fd, answer, sizeof answer, 0) > (ssize_t)sizeof(struct nlmsghdr));
    CHECK(((struct nlmsghdr *)answer)->nlmsg_type == RTM_NEWLINK);
}

TARGET(netlink) {
    int plain = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    int bound = MUST(socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE));
    struct sockaddr_nl name = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_TC | RTMGRP_IPV4_MROUTE};
    MUST(bind(bound, (struct sockaddr *)&name, sizeof name));
    int on = 1;
    int high = 33;
    int member = setsockopt(bound, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &high, sizeof high);
    MUST(setsockopt(bound, SOL_NETLINK, NETLINK_PKTINFO, &on, sizeof on));
    int connected = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    MUST(connect(connected, (struct sockaddr *)&kernel, sizeof kernel));
    struct sockaddr_nl before = netlink_name(bound);
    ready();
    await_go();
    struct sockaddr_nl after = netlink_name(bound);
    EQUAL(after.nl_pid, before.nl_pid);
    EQUAL(after.nl_groups, before.nl_groups);
    int value = 0, type = 0;
    socklen_t length = sizeof value;
    WORKS(getsockopt(bound, SOL_NETLINK, NETLINK_PKTINFO, &value, &length));
    EQUAL(value, 1);
    length = sizeof type;
    WORKS(getsockopt(bound, SOL_SOCKET, SO_TYPE, &type, &length));
    EQUAL(type, SOCK_DGRAM);
    uint32_t groups[8] = {0};
    length = sizeof groups;
    WORKS(getsockopt(bound, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups, &length));
    if (member == 0)
        EQUAL(groups[1] & 1, 1);
    asks(plain);
    asks(connected);
    return done();
}

TARGET(packets) {
    int all = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    if (all == -1 && errno == EAFNOSUPPORT)
        skip("the kernel has no packet sockets");
    MUST(all);
    int lo = (int)if_nametoindex("lo");
    ASSURE(lo != 0);
    int fd = MUST(socket(AF_PACKET, SOCK_DGRAM, 0)), on = 1, version = TPACKET_V2;
    struct sockaddr_ll name = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_ifindex = lo};
    MUST(bind(fd, (struct sockaddr *)&name, sizeof name));
    MUST(setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &on, sizeof on));
    MUST(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version));
    struct packet_mreq promiscuous = {.mr_ifindex = lo, .mr_type = PACKET_MR_PROMISC};
    MUST(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous, sizeof promiscuous));
    ready();
    await_go();
    struct sockaddr_ll now = {0};
    socklen_t length = sizeof now;
    WORKS(getsockname(fd, (struct sockaddr *)&now, &length));
    EQUAL(now.sll_ifindex, lo);
    EQUAL(now.sll_protocol, htons(ETH_P_IP));
    int value = 0;
    length = sizeof value;
    WORKS(getsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &value, &length));
    EQUAL(value, 1);
    length = sizeof value;
    WORKS(getsockopt(fd, SOL_PACKET, PACKET_VERSION, &value, &length));
    EQUAL(value, TPACKET_V2);
    WORKS(setsockopt(fd, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &promiscuous, sizeof promiscuous));
    /* A packet on lo is heard. */
    int udp = WORKS(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    WORKS(sendto(udp, "x", 1, 0, (struct sockaddr *)&to, sizeof to));
    struct pollfd asked[] = {{.fd = fd, .events = POLLIN}, {.fd = all, .events = POLLIN}};
    for (int i = 0; i < 2; i++)
        EQUAL(poll(&asked[i], 1, 10000), 1);
    return done();
}
