# frozen_string_literal: true

require "fileutils"
require "json"
require "net/http"
require "tmpdir"

HERE = __dir__
COMMAND = [RbConfig.ruby, "-w", File.expand_path("../exe/tasker-worker-ruby", HERE)].freeze
PATIENCE = 60.0

# Short times, so that a killed worker is missed soon.
FAST = {
  "TASKER_ENV" => "test",
  "TASKER__QUEUE__LEASE_MS" => "2000",
  "TASKER__WORKER__HEARTBEAT_MS" => "400",
  "TASKER__QUEUE__POLL_MAX_MS" => "500"
}.freeze

# Waits until it holds, and answers what it says.
def eventually(what)
  ending = Process.clock_gettime(Process::CLOCK_MONOTONIC) + PATIENCE
  while Process.clock_gettime(Process::CLOCK_MONOTONIC) < ending
    value = yield
    return value if value

    sleep 0.02
  end
  raise "it never came: #{what}"
end

# Ours without what would configure Tasker, and with what the tests want.
def environment(**more)
  ours = ENV.keys.select { |name| name.start_with?("TASKER_") || name.end_with?("DATABASE_URL") }
  { **ours.to_h { |name| [name, nil] }, **FAST, **more.transform_keys(&:to_s) }
end

# Asks a server.
class Client
  TERMINAL = %w[complete error cancelled blocked_by_failures].freeze

  attr_reader :url

  def initialize(url)
    @url = url
  end

  def call(method, path, body = nil)
    uri = URI(url + path)
    request = Net::HTTP.const_get(method.capitalize).new(uri, { "content-type" => "application/json" })
    request.body = JSON.generate(body) if body
    answer = Net::HTTP.start(uri.host, uri.port, read_timeout: PATIENCE) { |http| http.request(request) }
    raise "#{method} #{path}: #{answer.code} #{answer.body}" unless answer.is_a?(Net::HTTPSuccess)

    JSON.parse(answer.body, max_nesting: false)
  end

  def create(name, context, namespace: "rb")
    call("POST", "/v1/tasks", { namespace: namespace, name: name, context: context })["task_uuid"]
  end

  # The task once nothing of it can move any more.
  def wait(task)
    eventually("task #{task} ends") do
      told = call("GET", "/v1/tasks/#{task}/wait?timeout_ms=5000")
      told if TERMINAL.include?(told["status"])
    end
  end

  # Runs a task; answers its steps by name, with `status` beside them.
  def run(name, context, **more)
    task = create(name, context, **more)
    { "status" => wait(task)["status"], "task" => task, **steps(task) }
  end

  def steps(task)
    listed = call("GET", "/v1/tasks/#{task}/workflow_steps")
    listed = listed["steps"] if listed.is_a?(Hash)
    listed.to_h { |step| [step["name"], step] }
  end

  def audit(step)
    listed = call("GET", "/v1/tasks/#{step["task_uuid"]}/workflow_steps/#{step["step_uuid"]}/audit")
    listed.is_a?(Hash) ? listed["attempts"] : listed
  end
end

# A program whose output is read for as long as it runs.
class Program
  attr_reader :pid, :log

  def initialize(command, environment, log)
    @log = log
    @out, writer = IO.pipe
    @pid = Process.spawn(environment, *command, out: writer, err: log)
    writer.close
    @said = Queue.new
    @reader = Thread.new do
      @out.each_line { |line| @said << line }
      @said << nil
    end
  end

  # What it says next, up to a line with this in it.
  def until_it_says(pattern)
    said = +""
    loop do
      line = Timeout.timeout(PATIENCE) { @said.pop }
      raise "it ended without #{pattern.inspect}: #{said}#{File.read(log)}" if line.nil?

      said << line
      return said if line.match?(pattern)
    end
  end

  def signal(name)
    Process.kill(name, pid)
  end

  # Its exit status; nil where a signal ended it.
  def wait
    @status ||= Timeout.timeout(PATIENCE) { Process.wait2(pid).last }
    @reader.join
    @status.exitstatus
  end

  def terminate
    signal("TERM")
    wait
  end

  def kill
    signal("KILL")
    wait
  end
end

# `tasker dev`: a server and its PostgreSQL.
class Server < Client
  BINARY = ENV["TASKER_BIN"] || File.expand_path("../../../target/debug/tasker", HERE)

  attr_reader :database_url

  def initialize(folder, templates: "#{HERE}/templates", **more)
    command = [BINARY, "dev", "--data-dir", "#{folder}/postgres", "--templates", templates]
    @program = Program.new(command, environment(TASKER_WEB_BIND_ADDRESS: "127.0.0.1:0", **more), "#{folder}/server.log")
    said = @program.until_it_says(/Ctrl-C/)
    @database_url = said[/DATABASE_URL=(\S+)/, 1]
    super(said[%r{API\s+(http://[^/\s]+)}, 1])
  end

  def stop
    @program.terminate
  end

  # What a worker needs to know.
  def settings
    { DATABASE_URL: database_url, TASKER_ORCHESTRATION_URL: url }
  end
end

# The command with the handlers of the tests.
class WorkerProgram < Program
  attr_reader :greeting

  def initialize(server, log, arguments: ["--handlers", "#{HERE}/handlers"], command: [*COMMAND, *arguments], **more)
    super(command, environment(**server.settings, **more), log)
    @greeting = until_it_says(/^worker /)
  end
end
