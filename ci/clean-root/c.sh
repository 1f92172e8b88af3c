# The archive, unpacked where the user may write.
. /test/common.sh
tar -xzf "/dist/c/machnet-$VERSION-linux-$PLATFORM.tar.gz"
prefix="$HOME/machnet-$VERSION-linux-$PLATFORM"
export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
# Shared and static, as README.md and its pkg-config file say.
# shellcheck disable=SC2046
gcc -Wall -Wextra -Werror -o client /test/client.c $(pkg-config --cflags --libs machnet)
# shellcheck disable=SC2046
gcc -Wall -Wextra -Werror -o client-static /test/client.c $(pkg-config --static --cflags --libs machnet | sed 's/-lmachnet/-l:libmachnet.a/')
cat >server.c <<'C'
#include <machnet.h>
#include <stdio.h>

int main(void) {
  machnet_channel_t *channel;
  machnet_listener_t *listener;
  if (machnet_attach_with(NULL, &channel) != 0 || machnet_listener_open(channel, "0.0.0.0", 7000, 8, &listener) != 0) {
    fprintf(stderr, "server: %s\n", machnet_last_error());
    return 1;
  }
  puts("listening");
  fflush(stdout);
  for (;;) {
    machnet_flow_handle_t *flow;
    char question[64];
    size_t length = 0;
    if (machnet_listener_accept(listener, -1, &flow) != 0) return 1;
    if (machnet_flow_recv(flow, question, sizeof question, -1, &length) == 0) machnet_flow_send(flow, question, length, -1);
    machnet_flow_recv(flow, question, sizeof question, -1, &length); /* Until the client closes. */
    machnet_flow_close(flow);
  }
}
C
# shellcheck disable=SC2046
gcc -Wall -Wextra -Werror -o server server.c $(pkg-config --cflags --libs machnet)
export LD_LIBRARY_PATH="$prefix/lib"
expect "machnet $VERSION" "$("$prefix/bin/machnet" --version)"
start_sidecar "$prefix/bin/machnet"
mkfifo server.out
./server >server.out &
server=$!
read -r -t 60 line <server.out || fail "the server did not start"
expect listening "$line"
expect "answered: hello" "$(timeout 60 ./client 127.0.0.1)"
expect "answered: hello" "$(LD_LIBRARY_PATH='' timeout 60 ./client-static 127.0.0.1)"
kill "$server"
stop_sidecar
