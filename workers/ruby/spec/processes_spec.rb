# frozen_string_literal: true

require "open3"

# What becomes of the work of processes that end, wanted or not.
RSpec.describe "processes" do
  let(:log) { "#{scratch}/log" }
  let(:gate) { "#{scratch}/gate" }

  def worker(**more)
    WorkerProgram.new(server, "#{scratch}/worker-#{rand(1 << 30)}.log", **more)
  end

  # Runs a program in Ruby with the server's settings; answers what it printed.
  def printed(program, **more)
    file = "#{scratch}/program.rb"
    File.write(file, program)
    command = [RbConfig.ruby, "-w", "-I", File.expand_path("../lib", HERE), "-r", "#{HERE}/support.rb", file]
    said, told, status = Open3.capture3(environment(**server.settings, **more), *command)
    expect(status.success?).to be(true), told
    said
  end

  it "goes on from the checkpoint after kill -9" do
    first = worker
    task = server.create("batch", { items: 30, hang_at: 20, log: log })
    eventually("the handler is at the second checkpoint") { File.exist?(log) && File.read(log).include?("001 1 20") }
    first.kill
    second = worker
    expect(server.wait(task)["status"]).to eq("complete")
    expect(File.readlines(log, chomp: true)).to eq(["001 1 0", "001 1 10", "001 1 20", "001 2 20"])
    expect(server.steps(task)["merge"]["results"]["total"]).to eq(30.times.sum)
    expect(second.terminate).to eq(0)
  end

  it "lets running handlers end at SIGTERM and claims no more" do
    first = worker
    task = server.create("single", { do: "sleep", log: log, gate: gate })
    eventually("the handler runs") { File.exist?(log) }
    first.signal("TERM")
    File.write(gate, "")
    expect(first.wait).to eq(0), File.read(first.log)
    expect(server.wait(task)["status"]).to eq("complete")
    expect(server.steps(task)["only"]["results"]).to eq("pid" => first.pid, "attempt" => 1)
  end

  it "leaves at the end of the grace, and what still runs is tried elsewhere" do
    first = worker(TASKER__WORKER__STOP_GRACE_MS: "300")
    task = server.create("single", { do: "sleep", log: log, gate: gate })
    eventually("the handler runs") { File.exist?(log) }
    expect(first.terminate).to eq(0), File.read(first.log)
    File.write(gate, "")
    second = worker
    expect(server.wait(task)["status"]).to eq("complete")
    expect(server.steps(task)["only"]["results"]).to eq("pid" => second.pid, "attempt" => 2)
    expect(second.terminate).to eq(0)
  end

  it "makes up for threads whose handlers hang on after their time" do
    first = worker(TASKER__WORKER__CONCURRENCY: "1")
    tasks = Array.new(3) { server.create("hasty", { do: "hang", gate: gate }) }
    expect(tasks.map { |task| server.wait(task)["status"] }).to eq(["complete"] * 3)
    first.signal("USR1")
    status = JSON.parse(first.until_it_says(/^{/))
    expect(status["concurrency"]).to eq(1)
    expect(status["threads"]).to be_between(4, 5), "those that hang, and what the others needed"
    expect(status["steps"].map { |step| step["cancelled"] }).to eq([true] * 3)
    expect(first.terminate).to eq(0), "they do not keep the process"
  end

  it "ends at once at the second signal" do
    first = worker(TASKER__WORKER__STOP_GRACE_MS: "60000")
    task = server.create("single", { do: "sleep", log: log, gate: gate })
    eventually("the handler runs") { File.exist?(log) }
    first.signal("TERM")
    # The first one is heard once nothing is claimed any more.
    first.signal("USR1")
    first.until_it_says(/"worker_id"/)
    first.signal("INT")
    expect(first.wait).to eq(130)
    server.call("DELETE", "/v1/tasks/#{task}")
  end

  it "prints what it does at SIGUSR1" do
    first = worker
    task = server.create("single", { do: "sleep", log: log, gate: gate })
    eventually("the handler runs") { File.exist?(log) }
    first.signal("USR1")
    status = JSON.parse(first.until_it_says(/^{/))
    expect(status).to include("running" => true, "handlers" => include("flows.single"))
    expect(status["steps"]).to eq([{ "task" => task, "step" => "only", "attempt" => 1, "cancelled" => false }])
    File.write(gate, "")
    expect(server.wait(task)["status"]).to eq("complete")
    expect(first.terminate).to eq(0)
  end

  it "runs handlers as their files are now after SIGUSR2" do
    file = "#{scratch}/handlers/flows.rb"
    FileUtils.mkdir_p(File.dirname(file))
    write = lambda do |answer, more = ""|
      functional = "include TaskerCore::StepHandler::Functional"
      File.write(file, "#{functional}\nstep_handler('flows.single') { #{answer} }\n#{more}")
    end
    write["1"]
    first = worker(arguments: ["--handlers", File.dirname(file)])
    expect(server.run("single", {})["only"]["results"]).to eq(1)
    write["2", "step_handler('flows.other') { 1 }\n"]
    first.signal("USR2")
    first.until_it_says(/not claimed for until the next start: flows\.other/)
    expect(server.run("single", {})["only"]["results"]).to eq(2)
    write["3", "nonsense\n"]
    first.signal("USR2")
    eventually("it is told") { File.read(first.log).include?("the handlers stay as they were: NameError") }
    expect(server.run("single", {})["only"]["results"]).to eq(2)
    expect(first.terminate).to eq(0)
  end

  it "says why it can't start" do
    started = lambda do |*arguments, **more|
      _, told, status = Open3.capture3(environment(**more), *COMMAND, *arguments)
      [status.exitstatus, told]
    end
    handlers, database = ["--handlers", "#{HERE}/handlers"], { DATABASE_URL: server.database_url }
    expect(started[*handlers]).to match([1, /set DATABASE_URL/])
    expect(started[*handlers, **database, TASKER__WORKER__CONCURENCY: "1"]).to match([1, /did you mean/])
    expect(started["--handlers", scratch, **database]).to match([1, /no handler in/])
    expect(started["--handlers", "no_such_library", **database]).to match([1, /no_such_library/])
    File.write("#{scratch}/broken.yaml", "name: 1")
    templates = ["--templates", scratch]
    expect(started[*handlers, *templates, **server.settings]).to match([1, /broken\.yaml is refused/])
    nobody = { **database, TASKER_ORCHESTRATION_URL: "http://127.0.0.1:9" }
    expect(started[*handlers, *templates, **nobody]).to match([1, /does not answer.*TASKER_ORCHESTRATION_URL/])
    expect(started["--version"]).to eq([0, ""])
    expect(started[]).to match([2, /usage/])
    expect(started["--nonsense"]).to match([2, /usage/])
  end

  it "registers templates" do
    arguments = ["--handlers", "#{HERE}/handlers", "--templates", "#{HERE}/templates", "--namespace", "rb"]
    first = worker(arguments: arguments)
    expect(first.greeting).to include("flows.first")
    expect(server.run("linear", { number: 0 })["status"]).to eq("complete")
    expect(first.terminate).to eq(0)
  end

  it "refuses in a program what makes no sense" do
    said = printed(<<~'RUBY')
      require "tasker_core"
      include TaskerCore::StepHandler::Functional
      Bootstrap = TaskerCore::Worker::Bootstrap
      $stdout.sync = true

      def refused
        yield
        puts "not_refused"
      rescue TaskerCore::Errors::WorkerError => e
        puts e.code
      end

      called = Queue.new
      step_handler("flows.single") do
        refused { Bootstrap.stop! }
        called << 1
        {}
      end
      worker = Bootstrap.start!
      native = worker.instance_variable_get(:@native)
      refused { Bootstrap.start! }
      Process.wait(fork do
        refused { native.poll(0) }
        puts Bootstrap.running?
        # One of its own.
        Bootstrap.start!
        Bootstrap.stop!
      end)
      client = Client.new(ENV["TASKER_ORCHESTRATION_URL"])
      task = client.create("single", {})
      called.pop
      puts client.wait(task)["status"]
      puts TaskerCore::Worker::EventPoller.instance.start!.active?
      Bootstrap.stop!
      refused { native.poll(0) }
      refused { worker.stop }
      puts worker.running?, Bootstrap.status.inspect
    RUBY
    expect(said.split).to eq(%w[already_running forked false stop_in_handler complete true stopped stopped false nil])
  end

  it "gives the thread back from a poll that waits" do
    said = printed(<<~'RUBY')
      require "tasker_core"
      require "timeout"
      native = TaskerCore::Native.start(JSON.generate({ version: 1, handlers: { "nobody.calls" => ["call"] } }))
      others = 0
      counting = Thread.new { loop { others += 1; sleep 0.001 } }
      begin
        Timeout.timeout(0.2) { native.poll(600_000) }
      rescue Timeout::Error
        puts others > 10 ? "timeout" : "the lock was held"
      end
      polling = Thread.new { native.poll(600_000) }
      sleep 0.01 until polling.status == "sleep"
      puts polling.kill.join(60) ? "killed" : "hangs"
      trap("USR1") { puts "signal" }
      Thread.new { sleep 0.05; Process.kill("USR1", Process.pid) }
      # It is answered early, with nothing in it.
      puts native.poll(600_000)
      held_back = Thread.new do
        Thread.handle_interrupt(RuntimeError => :never) do
          Thread.handle_interrupt(RuntimeError => :on_blocking) { native.poll(600_000) }
        end
      rescue RuntimeError => e
        puts e.message
      end
      sleep 0.01 until held_back.status == "sleep"
      held_back.raise("raised")
      held_back.join(60)
      counting.kill
      native.stop(0)
    RUBY
    said = said.lines(chomp: true)
    expect(said.values_at(0, 1, 2, 4)).to eq(%w[timeout killed signal raised])
    expect(JSON.parse(said[3]).values.uniq).to eq([[]])
  end

  it "ends with its program, though nobody stopped it" do
    said = printed(<<~'RUBY')
      require "tasker_core"
      include TaskerCore::StepHandler::Functional
      step_handler("nobody.calls") { 1 }
      TaskerCore::Worker::Bootstrap.start!
      at_exit { puts "the end" }
      GC.stress = true
      20.times { TaskerCore::Native.version }
      GC.stress = false
    RUBY
    expect(said).to eq("the end\n")
  end

  it "rehearses without a database" do
    said = printed(<<~'RUBY', DATABASE_URL: nil)
      require "tasker_core"
      include TaskerCore::StepHandler::Functional
      steps = Queue.new
      step_handler("nobody.calls") do |context|
        steps << context.step_uuid
        {}
      end
      TaskerCore::Registry::HandlerRegistry.instance.bootstrap_handlers!
      worker = TaskerCore::Worker.new(rehearsal: 2_000)
      puts worker.wait(60), steps.size
    RUBY
    expect(said).to eq("true\n2000\n")
  end

  it "is measured by the rehearsal" do
    program = File.expand_path("../bench/rehearse.rb", HERE)
    said, = Open3.capture2e(environment(DATABASE_URL: nil), RbConfig.ruby, "-w", program, "10000")
    told = JSON.parse(said)
    expect(told.keys).to eq(%w[language steps seconds steps_per_s rss_mb_start rss_mb_end mb_per_10000_steps
                               threads_start threads_end])
    expect(told.values_at("language", "steps")).to eq(["ruby", 10_000])
    expect(told["threads_end"]).to be < 100, "as many as work needs, whatever the number of steps"
  end

  it "starts, runs a step and stops while garbage is collected at every allocation and all is moved" do
    task = server.create("single", { text: "é" })
    printed(<<~'RUBY')
      require "tasker_core"
      include TaskerCore::StepHandler::Functional
      done = Queue.new
      step_handler("flows.single") do |context|
        done << 1
        { input: context.input_data, values: [1.5, "\u{1f600}"] }
      end
      # Young objects at every allocation, the old ones meanwhile.
      GC.stress = 1
      Thread.new { loop { GC.respond_to?(:compact) ? GC.compact : GC.start } }
      TaskerCore::Worker::Bootstrap.start!
      done.pop
      TaskerCore::Worker::Bootstrap.stop!
    RUBY
    expect(server.wait(task)["status"]).to eq("complete")
    results = server.steps(task)["only"]["results"]
    expect(results).to eq("input" => { "text" => "é" }, "values" => [1.5, "\u{1f600}"])
  end

  it "starts and stops a hundred times without leaving threads behind" do
    said = printed(<<~'RUBY')
      require "tasker_core"
      include TaskerCore::StepHandler::Functional
      step_handler("nobody.calls") { 1 }
      Bootstrap = TaskerCore::Worker::Bootstrap
      in_system = -> { Dir.children("/proc/self/task").size }
      cycle = lambda do |_|
        Bootstrap.start!
        Bootstrap.stop!
        GC.start
      end
      5.times(&cycle)
      before = [Thread.list.size, in_system.call]
      95.times(&cycle)
      # Ruby keeps threads for a moment, so that it need not make new ones.
      eventually("they end") { Thread.list.size <= before[0] && in_system.call <= before[1] }
      puts "as before"
    RUBY
    expect(said).to eq("as before\n")
  end
end
