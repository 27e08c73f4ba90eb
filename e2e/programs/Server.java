// `java Server PORT`: answers "set NAME VALUE" with "ok" and "get NAME" with the value, a virtual thread for each
// connection, while other threads make garbage, wait for each other and run by the clock. Ends with 1 when its world is
// not as it should be.

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

public class Server {
    static final ConcurrentHashMap<String, String> ENTRIES = new ConcurrentHashMap<>();

    static void fail(String what) {
        System.err.println(what);
        Runtime.getRuntime().halt(1);
    }

    static void converse(Socket socket) {
        try (socket) {
            var in = new BufferedReader(new InputStreamReader(socket.getInputStream()));
            var out = socket.getOutputStream();
            for (String line; (line = in.readLine()) != null; ) {
                String[] words = line.split(" ");
                String answer;
                if (words[0].equals("set")) {
                    ENTRIES.put(words[1], words[2]);
                    answer = "ok";
                } else {
                    answer = ENTRIES.getOrDefault(words[1], "-");
                }
                out.write((answer + "\n").getBytes());
            }
        } catch (IOException gone) {
            // Clients come and go.
        }
    }

    static void makeGarbage() {
        var kept = new ArrayList<int[]>();
        for (int round = 0; ; round++) {
            var block = new int[64 << 10];
            for (int i = 0; i < block.length; i++) block[i] = round ^ i;
            kept.add(block);
            if (kept.size() < 100) continue;
            for (var old : kept)
                for (int i = 1; i < old.length; i++)
                    if ((old[i] ^ i) != old[0]) fail("the heap is not what it was");
            kept.clear();
            pause();
        }
    }

    static void pass(SynchronousQueue<Long> queue, boolean giving) {
        try {
            for (long count = 0; ; count++) {
                if (giving) queue.put(count);
                else if (queue.take() != count) fail("a number was lost between two threads");
                if (count % 64 == 0) pause();
            }
        } catch (InterruptedException interrupted) {
            fail("nobody interrupts anybody here");
        }
    }

    static void pause() {
        try {
            Thread.sleep(1);
        } catch (InterruptedException interrupted) {
            fail("nobody interrupts anybody here");
        }
    }

    public static void main(String[] arguments) throws IOException {
        var queue = new SynchronousQueue<Long>();
        new Thread(Server::makeGarbage, "garbage").start();
        new Thread(() -> pass(queue, true), "giver").start();
        new Thread(() -> pass(queue, false), "taker").start();
        var last = new AtomicLong(System.nanoTime());
        Executors.newSingleThreadScheduledExecutor().scheduleAtFixedRate(() -> {
            long now = System.nanoTime();
            if (now < last.getAndSet(now)) fail("time runs backwards");
        }, 1, 1, TimeUnit.MILLISECONDS);
        var threads = Executors.newVirtualThreadPerTaskExecutor();
        try (var server = new ServerSocket(Integer.parseInt(arguments[0]))) {
            while (true) {
                var socket = server.accept();
                threads.submit(() -> converse(socket));
            }
        }
    }
}
